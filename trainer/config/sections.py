"""All settings of a run as one typed object, importable without torch.

Owns the sections that are not a subject of their own, and what must hold between sections.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rollout_budget.wire import Estimator, PriorModel, Stopping
from rollout_budget.wire.pacing import require_priced
from trainer.config.base import NonNegativeFloat, PositiveFloat, PositiveInt, Section
from trainer.config.learner import LearnerSection
from trainer.config.rollouts import RolloutsSection, WeightsSection
from trainer.config.tasks import TaskSection


class RunSection(Section):
    """Identity, length and place of a run. It ends at `rollouts` or `steps`, whichever comes first."""

    id: Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9._-]*$")] = ""
    name: Annotated[str, Field(max_length=120)] = ""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    rollouts: PositiveInt | None = 20_000
    steps: PositiveInt | None = None
    output_dir: Path = Path("runs")
    cache_dir: Path = Path("runs/.cache")

    @model_validator(mode="after")
    def _ends(self) -> RunSection:
        if self.rollouts is None and self.steps is None:
            raise ValueError("a run needs an end: set rollouts or steps")
        return self

    def is_over(self, steps: int, rollouts: int) -> bool:
        """Return whether a run ends after so many steps and rollouts."""
        spent = self.rollouts is not None and rollouts >= self.rollouts
        return spent or (self.steps is not None and steps >= self.steps)


class DemoPolicySection(Section):
    """The small policy that is made on the spot where `policy.path` is not given."""

    hidden_size: PositiveInt = 128
    intermediate_size: PositiveInt = 384
    layers: PositiveInt = 3
    heads: PositiveInt = 4
    kv_heads: PositiveInt = 2
    seed: Annotated[int, Field(ge=0)] = 0
    warmup_steps: Annotated[int, Field(ge=0)] = 250
    warmup_batch: PositiveInt = 128
    warmup_lr: PositiveFloat = 2e-3

    @model_validator(mode="after")
    def _heads_divide(self) -> DemoPolicySection:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        return self


class PolicySection(Section):
    """The model that is trained."""

    path: str | None = None
    chat_template: bool = False
    demo: DemoPolicySection = DemoPolicySection()


class AllocatorSection(Section):
    """How groups get their rollouts and baselines; without `url` the same rules run in this process."""

    url: str | None = None
    key_file: Path | None = None
    estimator: Estimator = "empirical_bayes"
    stopping: Stopping = "posterior_variance"
    price: NonNegativeFloat = 0.015625
    pacing_steps: PositiveInt | None = None
    k_init: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = 2
    k_max: Annotated[int, Field(ge=1, le=1024)] = 16
    advantage_samples: Literal["all", "first_wave"] = "all"
    leave_one_out: bool = True
    plan: bool = False
    plan_candidates: Annotated[float, Field(ge=1, le=64)] = 4.0
    plan_exploration: Annotated[float, Field(gt=0, le=1)] = 0.125
    plan_weights: bool = False
    prior_model: PriorModel = "gp"
    reference_group_size: Annotated[int, Field(ge=1, le=1024)] = 16

    @model_validator(mode="after")
    def _fits(self) -> AllocatorSection:
        if isinstance(self.k_init, int) and self.k_init > self.k_max:
            raise ValueError(f"k_init ({self.k_init}) must not exceed k_max ({self.k_max})")
        return self

    @model_validator(mode="after")
    def _one_price(self) -> AllocatorSection:
        if self.pacing_steps is None:
            return self
        require_priced(self.stopping)
        if self.price != type(self).model_fields["price"].default:
            raise ValueError("price and pacing_steps both set the price; leave one of them out")
        return self


class PriorSection(Section):
    """Where an allocator in this process gets its priors; an allocator behind a URL has its own."""

    url: str | None = None
    key_file: Path | None = None


class CheckpointSection(Section):
    """When the run's state is written, and how much of it is kept."""

    every: PositiveInt = 10
    keep: PositiveInt = 2


class EvaluationSection(Section):
    """Held-out accuracy, off the training budget and counted apart; `every = 0` measures only at start and end."""

    every: Annotated[int, Field(ge=0)] = 10
    prompts: PositiveInt = 400
    samples: Annotated[int, Field(ge=0)] = 1
    greedy: bool = False
    temperature: NonNegativeFloat = 1.0

    @model_validator(mode="after")
    def _measures(self) -> EvaluationSection:
        if not self.samples and not self.greedy:
            raise ValueError("samples = 0 measures nothing; give it at least 1, or set greedy = true")
        return self


class LoggingSection(Section):
    """Beside `metrics.jsonl`, which is always written."""

    progress: bool = True
    tensorboard: bool = False
    wandb: bool = False
    wandb_project: str = "rollout-budget"


class Config(Section):
    """All settings of a training run."""

    run: RunSection = RunSection()
    task: TaskSection = TaskSection()
    policy: PolicySection = PolicySection()
    allocator: AllocatorSection = AllocatorSection()
    prior: PriorSection = PriorSection()
    rollouts: RolloutsSection = RolloutsSection()
    learner: LearnerSection = LearnerSection()
    checkpoint: CheckpointSection = CheckpointSection()
    weights: WeightsSection = WeightsSection()
    evaluation: EvaluationSection = EvaluationSection()
    logging: LoggingSection = LoggingSection()

    @model_validator(mode="after")
    def _paced(self) -> Config:
        if self.allocator.pacing_steps is None:
            return self
        if self.run.rollouts is None:
            raise ValueError("allocator.pacing_steps spreads run.rollouts over these steps; set run.rollouts")
        if self.rollouts.prompts_per_step is None:
            raise ValueError(
                "allocator.pacing_steps needs rollouts.prompts_per_step: else a step takes more prompts as groups shrink"
            )
        return self

    @model_validator(mode="after")
    def _adapters_travel_as_such(self) -> Config:
        adapters, sent = self.learner.lora.rank > 0, self.weights.backend == "lora"
        if adapters and not sent:
            raise ValueError('learner.lora.rank above 0 trains adapters; set weights.backend = "lora" to serve them')
        if sent and not adapters:
            raise ValueError('weights.backend = "lora" serves adapters; set learner.lora.rank, 16 for example')
        return self

    @model_validator(mode="after")
    def _scaled_by_its_own(self) -> Config:
        own = ("group_mean", "leave_one_out")
        if self.learner.advantage_scale == "group_std" and self.allocator.estimator not in own:
            raise ValueError(
                'learner.advantage_scale = "group_std" needs a baseline from the group itself (allocator.estimator '
                f"{' or '.join(own)}): with {self.allocator.estimator} it would blow up what groups with near-equal "
                'outcomes say; use "batch_std" or "none"'
            )
        return self

    @property
    def method(self) -> str:
        """Name of the run's method in tables and plots: `run.name`, or estimator, rule and group sizes."""
        settings = self.allocator
        sizes = f"{settings.k_init} to {settings.k_max}" if settings.k_init != settings.k_max else f"{settings.k_max}"
        return self.run.name or f"{settings.estimator}, {settings.stopping}, {sizes}"
