"""The trainer's configuration: typed, closed, and importable without torch.

Owns names, types, bounds and defaults of every setting, and the reading of a TOML file with overrides. Knows nothing of
what the settings drive. `defaults.toml` beside this file explains every field; a test holds the two together.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rollout_budget.wire import Estimator, PriorModel, Stopping
from rollout_budget.wire.pacing import require_priced
from trainer.errors import ConfigError

DEFAULTS_FILE = Path(__file__).with_name("defaults.toml")
"""Every default with its reason; `python -m trainer config` prints it."""

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """Base of every section: frozen, and an unknown field is an error, so that a misspelt option is never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


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


class ArithmeticSection(Section):
    """Generated sums and differences of graded difficulty (`trainer.tasks.arithmetic`)."""

    verifier: ClassVar[str] = "exact"

    size: PositiveInt = 1000
    held_out_size: PositiveInt = 256
    levels: Annotated[list[Annotated[int, Field(ge=1, le=9)]], Field(min_length=1)] = [1, 2]
    seed: Annotated[int, Field(ge=0)] = 0


class JsonlSection(Section):
    """Prompts and answers from files of JSON lines (`trainer.tasks.jsonl`)."""

    path: str = ""
    prompt_field: str = "prompt"
    answer_field: str = "answer"
    key_field: str | None = None
    level_field: str | None = None
    held_out_path: str | None = None
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    verifier: Literal["math", "exact"] = "math"


class TaskSection(Section):
    """What is learned; only the section of the named task is read."""

    name: Literal["arithmetic", "jsonl"] = "arithmetic"
    arithmetic: ArithmeticSection = ArithmeticSection()
    jsonl: JsonlSection = JsonlSection()

    @model_validator(mode="after")
    def _has_data(self) -> TaskSection:
        if self.name == "jsonl" and not self.jsonl.path:
            raise ValueError('name = "jsonl" needs task.jsonl.path, a file of JSON lines with prompt and answer')
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The named task's own settings, as `trainer.tasks.get` takes them."""
        return self._named.model_dump(exclude={"verifier"})

    @property
    def verifier(self) -> str:
        """Name of the verifier, as `trainer.rewards.get` takes it."""
        return self._named.verifier

    @property
    def _named(self) -> ArithmeticSection | JsonlSection:
        section: ArithmeticSection | JsonlSection = getattr(self, self.name)
        return section


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


class RolloutsSection(Section):
    """Sampling, and the size of a step."""

    urls: list[str] = []
    per_step: PositiveInt = 256
    prompts_per_step: PositiveInt | None = None
    prompts_per_call: PositiveInt = 1
    calls_per_server: PositiveInt = 128
    max_tokens: PositiveInt = 8
    temperature: PositiveFloat = 1.0


class LearnerSection(Section):
    """The clipped policy gradient and how it is computed."""

    lr: PositiveFloat = 2e-4
    weight_decay: NonNegativeFloat = 0.0
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: PositiveFloat = 0.28
    epochs: PositiveInt = 1
    minibatches: PositiveInt = 1
    grad_clip: PositiveFloat = 1.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    microbatch_tokens: PositiveInt = 8192
    activation_checkpointing: bool = False
    entropy: bool = False
    collective_timeout_s: PositiveFloat = 1800.0


class CheckpointSection(Section):
    """When the run's state is written, and how much of it is kept."""

    every: PositiveInt = 10
    keep: PositiveInt = 2


class WeightsSection(Section):
    """How new weights reach the servers."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    keep: PositiveInt = 2
    check: bool = True


class EvaluationSection(Section):
    """Held-out accuracy, off the training budget and counted apart; `every = 0` measures only at start and end."""

    every: Annotated[int, Field(ge=0)] = 10
    prompts: PositiveInt = 400
    samples: PositiveInt = 1
    temperature: NonNegativeFloat = 1.0


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

    @property
    def method(self) -> str:
        """Name of the run's method in tables and plots: `run.name`, or estimator, rule and group sizes."""
        settings = self.allocator
        sizes = f"{settings.k_init} to {settings.k_max}" if settings.k_init != settings.k_max else f"{settings.k_max}"
        return self.run.name or f"{settings.estimator}, {settings.stopping}, {sizes}"


def load(path: Path | str | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file over the defaults and overrides over both.

    Args:
        path: a TOML file; None takes the defaults.
        overrides: `section.field=value` with a TOML value (`learner.lr=1e-3`, `task.arithmetic.levels=[1, 2]`); what is no TOML
            value is taken as a string.

    Raises:
        ConfigError: in one line, which field cannot be used and what to write instead.
    """
    data: dict[str, Any] = {} if path is None else _read(Path(path))
    for override in overrides:
        _apply(data, override)
    return parse(data)


def parse(data: Mapping[str, Any]) -> Config:
    """Check nested settings and return them with every default filled in.

    Raises:
        ConfigError: as `load`.
    """
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _read(path: Path) -> dict[str, Any]:
    """Read TOML, written by hand, or JSON, written by a launcher."""
    try:
        text = path.read_text(encoding="utf-8")
        data: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    return data


def _apply(data: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    *sections, field = name.strip().split(".")
    if not separator or not sections or not all(sections) or not field:
        raise ConfigError(f"{override!r} is no override; write section.field=value, for example learner.lr=1e-3")
    for section in sections:
        inner = data.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{name.strip()}: {section!r} is a value, not a section")
        data = inner
    data[field] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(error: ValidationError) -> str:
    """Turn the first of pydantic's complaints into one line: field, complaint, what to write instead."""
    errors = error.errors(include_url=False, include_context=False)
    first, more = errors[0], len(errors) - 1
    place = [str(part) for part in first["loc"] if part not in {"int", "constrained-int"}]
    names = [part for part in place if not part.startswith("literal[")]
    field, tail = ".".join(names), f" (and {more} more)" if more else ""
    if first["type"] == "extra_forbidden":
        return f"{field}: there is no such field; {_nearest(names)}{tail}"
    complaint = first["msg"].removeprefix("Value error, ")
    if not names or first["type"] == "value_error":
        return f"{field + ': ' if field else ''}{complaint}{tail}"
    return (
        f"{field} = {first['input']!r}: {complaint[:1].lower()}{complaint[1:]}; the default is {_default(names)}{tail}"
    )


def _nearest(names: Sequence[str]) -> str:
    model: type[BaseModel] = Config
    for name in names[:-1]:
        model = _section(model, name) or model
    close = difflib.get_close_matches(names[-1], model.model_fields, n=1, cutoff=0.4)
    known = ", ".join(model.model_fields)
    return f"did you mean {'.'.join([*names[:-1], close[0]])}?" if close else f"known here: {known}"


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    annotation = model.model_fields[name].annotation if name in model.model_fields else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _default(names: Sequence[str]) -> str:
    value: Any = Config()
    for name in names:
        value = getattr(value, name, None)
    return repr(value) if not isinstance(value, Path) else repr(str(value))
