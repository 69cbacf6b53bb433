"""One run under way, on rank 0: take a step's rollouts, learn, publish, measure, save, say.

Owns the order of these; what each does is another module's. Drawing is the producer's, which may be ahead
(`rollouts.max_staleness`): the learner works in a thread of its own, so that rollouts go on meanwhile. A killed run goes
on here from its last checkpoint, learns again what it had drawn since, and only then draws on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

from pydantic import TypeAdapter

from trainer.errors import ConfigError, Diverged, GenerationFailed
from trainer.evaluation import Evaluator, Measurement
from trainer.groups import Shape
from trainer.journal import Journal
from trainer.learner import checkpoint
from trainer.learner.batch import Row, rows
from trainer.learner.learner import StepStatistics
from trainer.metrics import Listener, Noticed, Phase, Started, StepMetrics, Stepped, Summary, is_written
from trainer.parts import Parts
from trainer.production import Batch, Producer
from trainer.progress import Progress
from trainer.prompts import PromptSampler
from trainer.record import progress_row, step_row, with_measurement
from trainer.run import Run
from trainer.runs import CHECKPOINTS, ROLLOUTS, WEIGHTS, attempt_for, declare
from trainer.types import Problem, RolloutGroup, Sampling
from trainer.waves import Collector
from trainer.weights.check import TOLERANCE, check_logprobs

CHECKED_STEPS = 2
"""Steps of an attempt that begin with a look at the servers' weights: under those it starts with, and after an update."""
CHECKED_SAMPLES = 32
"""Completions whose log-probabilities are compared: a stale server shows in a single one."""
MOST_DIVERGED = 3
"""Steps in a row whose gradient is no number before a run gives up: one may be a freak of low precision, three are not."""

Result = TypeVar("Result")
_MEASUREMENT = TypeAdapter(Measurement)


class Training:
    """One run under way. Restore it, then train."""

    def __init__(self, run: Run, parts: Parts, tell: Listener) -> None:
        self.config = run.config
        self.directory = run.directory
        self.progress = Progress()
        self._parts = parts
        self._team = run.team
        self._tell = tell
        self._journal = Journal(run.directory / ROLLOUTS)
        self._fits = _Fits(run, tell)
        self._producer = Producer(
            run.config,
            _collector(run, parts),
            PromptSampler(parts.task.train(), seed=run.config.run.seed),
            self._journal,
            fits=self._fits,
        )
        self._evaluator = _evaluator(run, parts)
        self._memory: dict[str, Any] = {}
        self._line: StepMetrics | None = None
        self._seconds: dict[str, float] = {}
        self._clock = 0.0
        self._checks_left = CHECKED_STEPS if run.config.weights.check or run.config.rollouts.temperature != 1.0 else 0
        self._measured_step: int | None = None
        self._published: int | None = None
        self._diverged = 0
        self._learning = ThreadPoolExecutor(max_workers=1, thread_name_prefix="learn")

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state; an empty one is a fresh start."""
        if state:
            self.progress = Progress(**state["progress"])
            self._memory = state["memory"]
            self._line = None if state.get("line") is None else StepMetrics.model_validate(state["line"])

    async def train(self) -> Summary:
        """Train until the run's limit of rollouts or steps, or until no budget is left.

        Raises:
            ConfigError: there is more to do, but the allocator has this run as finished.
        """
        self._clock = time.monotonic() - self.progress.elapsed_s
        self._tell(Started(self.directory, self.config.method, self.progress.step, self.progress.rollouts))
        if self._line is not None and not is_written(self.directory, self.progress.step):
            self._tell(Stepped(self._line))  # killed between the checkpoint of this step and its line
        step = self.progress.step
        attempt = attempt_for(self.directory, lost=self._journal.is_lost(step))
        self._producer.restore(self._memory, step=step, drawn=self.progress.rollouts, attempt=attempt)
        declared = await declare(self._parts.allocator, self.config, self.directory)
        if declared.status == "finished" and not self._is_over():
            raise ConfigError(
                f"run.id = {self.directory.name!r}: the allocator has this run as finished; give another run.id, with "
                f"policy.path = '{self.directory / WEIGHTS}/v{self.progress.step}' to go on from its weights"
            )
        try:
            if not self._is_over():
                await self._begin()
            async with aclosing(self._producer.steps()) as steps:
                while not self._is_over() and await self._go_on(steps):
                    pass
        finally:
            self._learning.shutdown()
        ended = await self._parts.allocator.finish_run(self.directory.name)
        self._settle(ended.usage.committed + ended.usage.overage)
        summary = self._summary()
        self._tell(summary)
        return summary

    def _settle(self, booked: int) -> None:
        """Compare the ledger's rollouts with the run's at its end, and say what a user can do about a difference."""
        if booked < self.progress.rollouts:
            self._tell(
                Noticed(
                    "The allocator is away and has not heard of everything: once it is back, start "
                    f"run.id = '{self.directory.name}' again, which only tells it."
                )
            )
        if lost := self.progress.book(booked):
            self._tell(Noticed(f"{lost} rollouts of an earlier attempt are booked, but were not learned from."))

    async def _begin(self) -> None:
        """Bring the weights that a run starts or goes on with to the servers, and measure a fresh start."""
        if not self._journal.ended(self.progress.step + 1):
            await self._publish()
        if self.progress.step == 0:
            measured = await self._measure(recorded=True)
            self.progress.accuracy_start = self.progress.accuracy_end
            self._tell_apart(measured)

    async def _go_on(self, steps: AsyncIterator[Batch]) -> bool:
        """Do one step; return whether there was one to do."""
        self._seconds = {}
        with self._phase("rollouts"):
            batch = await self._next(steps)
        if batch is None or not batch.drawn.used:
            await self._end_early()
            return False
        await self._step(batch)
        return True

    async def _next(self, steps: AsyncIterator[Batch]) -> Batch | None:
        """Return the next step; one without any rollouts because nothing could generate is an error that says what to do.

        Before the first step the setup is wrong, later something broke that worked.
        """
        try:
            return await anext(steps, None)
        except GenerationFailed as error:
            if self.progress.step == 0:
                todo = (
                    "see that rollouts.urls answer, and that a prompt and rollouts.max_tokens fit the model's context"
                )
            else:
                todo = f"mend the servers, then go on from the last checkpoint with run.id = '{self.directory.name}'"
            step = self.progress.step + 1
            raise GenerationFailed(f"no rollouts for any prompt of step {step}: {error}; {todo}") from error

    async def _step(self, batch: Batch) -> None:
        chosen = rows(
            batch.groups,
            first_wave_only=self.config.allocator.advantage_samples == "first_wave",
            advantage_scale=self.config.learner.advantage_scale,
        )
        with self._phase("learning"):
            if not batch.resumed:  # what an earlier attempt drew says nothing of this one's servers
                await self._check(batch.groups)
            learned = await self._apart(lambda: self._team.step(chosen, self.progress.step))
        self._watch(learned)
        self._memory = batch.memory
        self.progress.count(batch.drawn)
        if not (batch.replayed and self._journal.ended(self.progress.step + 1)):
            await self._publish()
        measured = await self._measure(recorded=batch.replayed) if self._is_due(self.config.evaluation.every) else None
        quality = (await self._parts.allocator.get_run(self.directory.name)).prior
        self.progress.elapsed_s = time.monotonic() - self._clock
        row = with_measurement(step_row(self.progress, batch, learned, quality, self._seconds), measured)
        if self._is_due(self.config.checkpoint.every):
            await self._save(row)
        self._tell(Stepped(row.model_copy(update={"seconds": dict(self._seconds)})))

    def _watch(self, learned: StepStatistics) -> None:
        """Say when a step could not be taken, and end a run whose weights can no longer be trusted.

        Raises:
            Diverged: so many steps in a row had a gradient that is no number.
        """
        if learned.updates or not learned.skipped:
            self._diverged = 0
            return
        self._diverged += 1
        step = self.progress.step + 1
        self._tell(Noticed(f"The gradient of step {step} is no number; the update was left out."))
        if self._diverged == MOST_DIVERGED:
            raise Diverged(
                f"the gradients of the last {MOST_DIVERGED} steps, up to step {step}, are no numbers: lower learner.lr or "
                "learner.grad_clip, or use learner.dtype = 'float32', then go on from the last checkpoint with "
                f"run.id = '{self.directory.name}'"
            )

    async def _publish(self) -> None:
        """Bring the learner's weights, as version `progress.step`, to whoever generates, if they are not there."""
        version = self.progress.step
        if self._published == version:
            return
        with self._phase("publishing"):
            directory = await self._apart(
                lambda: self._team.export(self.directory / WEIGHTS, version, self.config.weights.dtype)
            )
            await self._parts.publisher.publish(directory, version)
        self._published = version
        await self._producer.published(version)

    async def _check(self, groups: Sequence[RolloutGroup]) -> None:
        """At first, do servers and learner hold the same weights? Rollouts that were drawn anyway tell."""
        own = self.progress.step
        pairs = [
            (group.prompt_ids, sample)
            for group in groups
            for sample in group.samples
            if set(sample.token_versions) == {own}
        ][:CHECKED_SAMPLES]
        if not self._checks_left or not pairs:
            return
        self._checks_left -= 1
        low = "bfloat16" in {self.config.weights.dtype, self.config.learner.dtype}
        tolerance = TOLERANCE["bfloat16" if low else "float32"]
        worst = await self._apart(lambda: check_logprobs(pairs, self._score, tolerance=tolerance))
        if not self._checks_left:
            self._tell(Noticed(f"Servers and learner hold the same weights: log-probabilities within {worst:.1e}."))

    def _score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, ...]]:
        return self._team.logprobs(
            [Row(tuple(prompt), tuple(tokens), (0.0,) * len(tokens), 0.0) for prompt, tokens in pairs]
        )

    async def _measure(self, *, recorded: bool = False) -> Measurement | None:
        """Measure the current weights; None where the task holds nothing out.

        Args:
            recorded: take the measurement that an earlier attempt made of the same weights, if there is one.
        """
        step = self.progress.step
        if not self._evaluator.problems:
            return None
        known = self._journal.measurement(step) if recorded else None
        if known is not None:
            measured = _MEASUREMENT.validate_python(known)
        else:
            await self._publish()
            with self._phase("evaluation"):
                measured = await self._evaluator.measure(step)
            self._journal.measured(step, _MEASUREMENT.dump_python(measured, mode="json"))
        self.progress.evaluation_rollouts += measured.rollouts
        if measured.failed:
            self._tell(Noticed(f"No server could answer {measured.failed} of the held-out problems."))
        self.progress.accuracy_end = measured.main
        self._measured_step = step
        return measured

    def _tell_apart(self, measured: Measurement | None) -> None:
        """Say what was measured outside of a step: before the first one, or when a run ends early."""
        self.progress.elapsed_s = time.monotonic() - self._clock
        self._tell(Stepped(with_measurement(progress_row(self.progress, self._seconds), measured)))

    async def _end_early(self) -> None:
        """Say why, and leave a measurement and a checkpoint as any other end does."""
        held = (await self._parts.allocator.get_run(self.directory.name)).usage.reserved
        left = f" {held} are held for groups that an earlier attempt left open, until their leases end." if held else ""
        self._tell(Noticed(f"The budget is used up: the allocator granted no rollout.{left}"))
        if self._measured_step != self.progress.step:
            self._seconds = {}
            self._tell_apart(await self._measure())
        await self._save()

    async def _save(self, row: StepMetrics | None = None) -> None:
        """Write a checkpoint, with the line of its step where that is not told yet."""
        with self._phase("checkpoint"):
            self.progress.elapsed_s = time.monotonic() - self._clock
            line = None if row is None else row.model_dump(mode="json")
            state = {"progress": asdict(self.progress), "memory": self._memory, "line": line}
            root, step, keep = self.directory / CHECKPOINTS, self.progress.step, self.config.checkpoint.keep
            await self._apart(lambda: self._team.save(root, step, state, keep))
            self._journal.forget(checkpoint.oldest_step(root))

    async def _apart(self, work: Callable[[], Result]) -> Result:
        """Do the learner's work in its own thread, always the same one, while rollouts go on in this one."""
        return await asyncio.get_running_loop().run_in_executor(self._learning, work)

    def _is_over(self) -> bool:
        return self.config.run.is_over(self.progress.step, self.progress.rollouts)

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


class _Fits:
    """Whether a prompt and a completion fit the model; says so of the first that does not."""

    def __init__(self, run: Run, tell: Listener) -> None:
        self._encode = run.encode
        self._longest = getattr(run.learner.model.config, "max_position_embeddings", None)
        self._completion = run.config.rollouts.max_tokens
        self._tell = tell
        self._said = False

    def __call__(self, problem: Problem) -> bool:
        """Return whether there is room."""
        if self._longest is None:
            return True
        tokens = len(self._encode(problem.prompt))
        fits = tokens > 0 and tokens + self._completion <= self._longest
        if not fits and not self._said:
            self._said = True
            self._tell(
                Noticed(
                    f"Problem {problem.key!r} is left out, as are others like it: {tokens} tokens of prompt and "
                    f"{self._completion} of completion in a model of {self._longest} positions."
                )
            )
        return fits


def _collector(run: Run, parts: Parts) -> Collector:
    settings = run.config
    return Collector(
        run_id=run.directory.name,
        allocator=parts.allocator,
        generator=parts.generator,
        verifier=parts.verifier,
        encode=run.encode,
        sampling=Sampling(settings.rollouts.max_tokens, settings.rollouts.temperature, settings.rollouts.top_p),
        seed=settings.run.seed,
        reference_group_size=settings.allocator.reference_group_size,
        shape=Shape(
            leave_one_out=settings.allocator.leave_one_out,
            first_wave_only=settings.allocator.advantage_samples == "first_wave",
            weighted=settings.allocator.plan_weights,
        ),
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
        greedy=settings.greedy,
    )
