"""The training loop: prompts, rollouts, a step, new weights, now and then a measurement and a checkpoint.

Owns the order of these and the run's folder; what each of them does is another module's. Synchronous and on-policy: the
servers rest while the learner learns, and the other way round. Rank 0 runs the loop, the other ranks learn with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rollout_budget.wire import PriorQuality
from trainer.config import Config
from trainer.errors import ConfigError, GenerationFailed
from trainer.evaluation import Evaluator
from trainer.learner import checkpoint
from trainer.learner.batch import Row, rows
from trainer.learner.fsdp import World, world
from trainer.learner.learner import Learner, StepStatistics
from trainer.learner.ranks import Lead, follow, lead
from trainer.metrics import (
    Listener,
    Noticed,
    Phase,
    Started,
    StepMetrics,
    Stepped,
    Summary,
    listeners,
)
from trainer.parts import Parts, connect
from trainer.policy import encode_prompt, ensure_policy
from trainer.progress import Progress
from trainer.prompts import PromptSampler, StepSize
from trainer.runs import CHECKPOINTS, WEIGHTS, declare, named, next_attempt, note_drawn, noted_drawn, prepare
from trainer.types import RolloutGroup, Sampling
from trainer.waves import Collector, StepStats
from trainer.weights.check import TOLERANCE, check_logprobs

CHECKED_STEPS = 2
"""Steps of an attempt that begin with a look at the servers' weights: under those it starts with, and after an update."""
CHECKED_SAMPLES = 32
"""Completions whose log-probabilities are compared: a stale server shows in a single one."""

Connect = Callable[[Config, Listener], AbstractAsyncContextManager[Parts]]


def run_training(config: Config, *, on_event: Listener | None = None, connect: Connect = connect) -> Summary | None:
    """Train as configured, or go on with the run of that id, and return what came out (None on ranks other than 0).

    Args:
        config: the settings.
        on_event: told of every event, on rank 0.
        connect: makes the parts of a run; replaced in tests.

    Raises:
        ConfigError: the settings cannot be used, or are not those that the run was started with.
        TrainerError: rollouts or weights failed beyond what can be borne; the last checkpoint stands.
    """
    with world(config.learner.device, timeout_s=config.learner.collective_timeout_s) as where:
        start = _start(config, where)
        if start is None:
            return None
        directory, policy = start
        config = named(config, directory.name)
        learner = Learner(policy, config.learner, where, seed=config.run.seed, temperature=config.rollouts.temperature)
        if not where.leads:
            follow(learner, where)
            return None
        with lead(learner, where) as team:
            others = [] if on_event is None else [on_event]
            return asyncio.run(_run(Run(config, directory, learner, team), others, connect))


def _start(config: Config, where: World) -> tuple[Path, Path] | None:
    """Return the run's folder and the policy's; None where rank 0 failed to make them, which alone says why."""
    start: tuple[Path, Path] | None = None
    try:
        start = (prepare(config), ensure_policy(config)) if where.leads else None
    finally:
        start = where.broadcast(start)
    return start


@dataclass(frozen=True, slots=True)
class Run:
    """What a run is made of before it is connected to anything.

    Attributes:
        directory: of the run; its name is the run's id.
        learner: on this rank.
        team: the learners of all ranks.
    """

    config: Config
    directory: Path
    learner: Learner
    team: Lead

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Return the token ids that the policy is asked to continue."""
        return encode_prompt(self.learner.tokenizer, prompt, chat_template=self.config.policy.chat_template)


async def _run(run: Run, others: Sequence[Listener], connect: Connect) -> Summary:
    """Restore what there is, connect everything, train."""
    found = checkpoint.latest(run.directory / CHECKPOINTS)
    state = {} if found is None else run.team.load(found)
    with listeners(run.config, run.directory, int(state.get("step", 0)), others) as tell:
        async with connect(run.config, tell) as parts:
            training = Training(run, parts, tell)
            training.restore(state)
            return await training.train()


class Training:
    """One run under way, on rank 0."""

    def __init__(self, run: Run, parts: Parts, tell: Listener) -> None:
        self.config = run.config
        self.directory = run.directory
        self.progress = Progress()
        self.sampler = PromptSampler(parts.task.train(), seed=run.config.run.seed)
        self.size = StepSize.of(run.config)
        self._parts = parts
        self._team = run.team
        self._tell = tell
        self._attempt = next_attempt(run.directory)
        self._seconds: dict[str, float] = {}
        self._clock = 0.0
        self._checks_left = CHECKED_STEPS if run.config.weights.check or run.config.rollouts.temperature != 1.0 else 0
        self._collector = _collector(run, parts)
        self._evaluator = _evaluator(run, parts)
        self._measured_step: int | None = None

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state; an empty one is a fresh start."""
        if state:
            self.progress = Progress(**state["progress"])
            self.sampler.restore(state["sampler"])
            self.size.mean_group = state["mean_group"]

    async def train(self) -> Summary:
        """Train until the run's limit of rollouts or steps, or until no budget is left.

        Raises:
            ConfigError: there is more to do, but the allocator has this run as finished.
        """
        self._clock = time.monotonic() - self.progress.elapsed_s
        self._tell(Started(self.directory, self.config.method, self.progress.step, self.progress.rollouts))
        self._book(noted_drawn(self.directory))
        before = self.progress.rollouts if self.config.allocator.url is None else 0
        declared = await declare(
            self._parts.allocator, self.config, self.directory, used=before, done=self.progress.step
        )
        self._book(before + declared.usage.committed + declared.usage.overage)
        if declared.status == "finished" and not self._is_over():
            raise ConfigError(
                f"run.id = {self.directory.name!r}: the allocator has this run as finished; give another run.id, with "
                f"policy.path = '{self.directory / WEIGHTS}/v{self.progress.step}' to go on from its weights"
            )
        await self._publish()
        if self.progress.step == 0:
            await self._measure_apart()
            self.progress.accuracy_start = self.progress.accuracy_end
        while not self._is_over():
            if not await self._step():
                await self._end_early()
                break
        ended = await self._parts.allocator.finish_run(self.directory.name)
        self._book(before + ended.usage.committed + ended.usage.overage)
        summary = self._summary()
        self._tell(summary)
        return summary

    async def _step(self) -> bool:
        """Do one step; return False where no budget is left for a single rollout."""
        self._seconds = {}
        problems = self.sampler.take(self.size.next(self._remaining()))
        step = self.progress.step + 1
        with self._phase("rollouts"):
            groups, drawn = await self._collector.collect(
                problems, step=step, version=self.progress.step, attempt=self._attempt
            )
        if not groups:
            if drawn.failed:
                raise GenerationFailed(self._nothing_drawn(drawn.detail))
            return False
        note_drawn(self.directory, self.progress.rollouts + drawn.used)
        batch = rows(groups, first_wave_only=self.config.allocator.advantage_samples == "first_wave")
        with self._phase("learning"):
            self._check(groups)
            learned = self._team.step(batch)
        self.size.saw(drawn.groups, drawn.used)
        self.progress.count(drawn)
        await self._publish()
        accuracy = await self._measure() if self._is_due(self.config.evaluation.every) else None
        quality = (await self._parts.allocator.get_run(self.directory.name)).prior
        if self._is_due(self.config.checkpoint.every):
            self._save()
        self._report(groups, drawn, learned, quality, accuracy)
        return True

    def _nothing_drawn(self, why: str) -> str:
        """Say what to do: before the first step the setup is wrong, later something broke that worked."""
        if self.progress.step == 0:
            todo = "see that rollouts.urls answer, and that a prompt and rollouts.max_tokens fit the model's context"
        else:
            todo = f"mend the servers, then go on from the last checkpoint with run.id = '{self.directory.name}'"
        return f"no rollouts for any prompt of step {self.progress.step + 1}: {why}; {todo}"

    def _book(self, drawn: int) -> None:
        """Take the ledger's word for how many rollouts were drawn, where it knows of more."""
        if lost := self.progress.book(drawn):
            self._tell(Noticed(f"{lost} rollouts of an earlier attempt are booked, but were not learned from."))

    async def _publish(self) -> None:
        """Bring the learner's weights, as version `progress.step`, to whoever generates."""
        with self._phase("publishing"):
            version = self.progress.step
            directory = self._team.export(self.directory / WEIGHTS, version, self.config.weights.dtype)
            await self._parts.publisher.publish(directory, version)

    def _check(self, groups: Sequence[RolloutGroup]) -> None:
        """At first, do servers and learner hold the same weights? Rollouts that were drawn anyway tell."""
        if not self._checks_left:
            return
        self._checks_left -= 1
        pairs = [(group.prompt_ids, sample) for group in groups for sample in group.samples][:CHECKED_SAMPLES]
        low = "bfloat16" in {self.config.weights.dtype, self.config.learner.dtype}
        worst = check_logprobs(pairs, self._score, tolerance=TOLERANCE["bfloat16" if low else "float32"])
        if not self._checks_left:
            self._tell(Noticed(f"Servers and learner hold the same weights: log-probabilities within {worst:.1e}."))

    def _score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, ...]]:
        return self._team.logprobs(
            [Row(tuple(prompt), tuple(tokens), (0.0,) * len(tokens), 0.0) for prompt, tokens in pairs]
        )

    async def _measure(self) -> float | None:
        """Return held-out accuracy; None where the task holds nothing out."""
        if not self._evaluator.problems:
            return None
        with self._phase("evaluation"):
            measured = await self._evaluator.measure(self.progress.step)
        self.progress.evaluation_rollouts += measured.rollouts
        if measured.failed:
            self._tell(Noticed(f"No server could answer {measured.failed} of the held-out problems."))
        self.progress.accuracy_end = measured.accuracy
        self._measured_step = self.progress.step
        return measured.accuracy

    async def _measure_apart(self) -> None:
        """Measure outside of a step: before the first one, or when a run ends early."""
        self._seconds = {}
        accuracy = await self._measure()
        done = self.progress
        done.elapsed_s = time.monotonic() - self._clock
        row = StepMetrics(
            step=done.step,
            version=done.step,
            elapsed_s=done.elapsed_s,
            held_out_accuracy=accuracy,
            rollouts_total=done.rollouts,
            rollouts_saved=done.saved,
            evaluation_rollouts=done.evaluation_rollouts,
            tokens_total=done.tokens,
            seconds=self._seconds,
        )
        self._tell(Stepped(row))

    async def _end_early(self) -> None:
        """Say why, and leave a measurement and a checkpoint as any other end does."""
        held = (await self._parts.allocator.get_run(self.directory.name)).usage.reserved
        left = f" {held} are held for groups that an earlier attempt left open, until their leases end." if held else ""
        self._tell(Noticed(f"The budget is used up: the allocator granted no rollout.{left}"))
        if self._measured_step != self.progress.step:
            await self._measure_apart()
        self._save()

    def _save(self) -> None:
        with self._phase("checkpoint"):
            self.progress.elapsed_s = time.monotonic() - self._clock
            state = {
                "progress": asdict(self.progress),
                "sampler": self.sampler.state(),
                "mean_group": self.size.mean_group,
            }
            self._team.save(self.directory / CHECKPOINTS, self.progress.step, state, self.config.checkpoint.keep)

    def _report(
        self,
        groups: Sequence[RolloutGroup],
        drawn: StepStats,
        learned: StepStatistics,
        quality: PriorQuality,
        accuracy: float | None,
    ) -> None:
        done = self.progress
        done.elapsed_s = time.monotonic() - self._clock
        outcomes = [outcome for group in groups for outcome in group.outcomes]
        row = StepMetrics(
            step=done.step,
            version=done.step,
            elapsed_s=done.elapsed_s,
            accuracy=sum(outcomes) / len(outcomes),
            held_out_accuracy=accuracy,
            groups=drawn.groups,
            mean_group_size=drawn.used / drawn.groups,
            rollouts=drawn.used,
            rollouts_total=done.rollouts,
            rollouts_saved=done.saved,
            evaluation_rollouts=done.evaluation_rollouts,
            tokens=drawn.tokens,
            tokens_total=done.tokens,
            prior_squared_error=quality.squared_prior_error,
            prior_explained_variance=quality.explained_variance,
            prior_strength=quality.strength,
            loss=learned.loss,
            grad_norm=learned.grad_norm,
            clip_fraction=learned.clip_fraction,
            kl=learned.kl,
            entropy=learned.entropy,
            mismatch=learned.mismatch,
            seconds=self._seconds,
            degraded=drawn.degraded,
            fallback=drawn.fallback,
            detail=drawn.detail,
        )
        self._tell(Stepped(row))

    def _remaining(self) -> int | None:
        limit = self.config.run.rollouts
        return None if limit is None else limit - self.progress.rollouts

    def _is_over(self) -> bool:
        remaining, steps = self._remaining(), self.config.run.steps
        return (remaining is not None and remaining <= 0) or (steps is not None and self.progress.step >= steps)

    def _is_due(self, every: int) -> bool:
        """Whether something that happens every so many steps happens after this one; the last step always counts."""
        return self._is_over() or (every > 0 and self.progress.step % every == 0)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self._tell(Phase(self.progress.step, name))
        began = time.monotonic()
        yield
        self._seconds[name] = round(self._seconds.get(name, 0.0) + time.monotonic() - began, 4)

    def _summary(self) -> Summary:
        done = self.progress
        return Summary(
            run_id=self.directory.name,
            method=self.config.method,
            directory=self.directory,
            steps=done.step,
            rollouts=done.rollouts,
            rollouts_saved=done.saved,
            evaluation_rollouts=done.evaluation_rollouts,
            tokens=done.tokens,
            seconds=done.elapsed_s,
            accuracy_start=done.accuracy_start,
            accuracy_end=done.accuracy_end,
        )


def _collector(run: Run, parts: Parts) -> Collector:
    settings = run.config.rollouts
    return Collector(
        run_id=run.directory.name,
        allocator=parts.allocator,
        generator=parts.generator,
        verifier=parts.verifier,
        encode=run.encode,
        sampling=Sampling(settings.max_tokens, settings.temperature),
        seed=run.config.run.seed,
        reference_group_size=run.config.allocator.reference_group_size,
    )


def _evaluator(run: Run, parts: Parts) -> Evaluator:
    settings = run.config.evaluation
    return Evaluator(
        problems=parts.task.held_out()[: settings.prompts],
        generator=parts.generator,
        verifier=parts.verifier,
        encode=run.encode,
        sampling=Sampling(run.config.rollouts.max_tokens, settings.temperature),
        samples=settings.samples,
        seed=run.config.run.seed,
    )
