"""What a run says of itself: one JSON object a step, always; TensorBoard, W&B and a progress bar when asked.

Owns the record of a step, the events of a run and who listens to them. Listeners are told, never asked: none of them can
change a run. Read back by `trainer.report`, also while the run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from trainer.config import Config, load
from trainer.errors import ConfigError

METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.json"
SUMMARY_FILE = "summary.json"
STEPS_A_LINE = 10
"""Steps from one line of plain progress to the next: a log of a thousand steps stays readable."""


class StepMetrics(BaseModel):
    """One line of `metrics.jsonl`. Step 0 is the measurement before the first step.

    Lines are only appended. A run that ends early after a step without a measurement adds one, as a second line under
    that step's number which says nothing of rollouts or learning; `read_metrics` joins the two.

    Attributes:
        step: optimiser steps done.
        version: weight version that the next rollouts are drawn from.
        elapsed_s: seconds of training so far, over all attempts of the run.
        accuracy: mean outcome of the step's rollouts; None where there were none.
        held_out_accuracy: mean over `evaluation.samples` completions of problems never trained on (the greedy one's where
            there are none); None where it was not measured. `held_out_error` is its standard error over problems,
            `held_out_greedy` the accuracy of greedy completions.
        groups: prompts of the step that got rollouts.
        mean_group_size: rollouts per such prompt.
        rollouts: drawn in this step; `rollouts_total` so far.
        rollouts_saved: against the reference group size for every group so far, cumulative; negative if more were drawn.
        evaluation_rollouts: drawn for measuring so far, off the budget.
        cancelled: rollouts that were under way when enough groups were complete; on nobody's account.
        without_signal: groups whose outcomes were all equal and that were replaced; their rollouts are counted.
        tokens: sampled in this step; `tokens_total` so far.
        prior_squared_error: pooled squared error of the run's priors, on the outcome scale (D).
        prior_explained_variance: share of the variance between prompts that the prior explains.
        prior_strength: pseudo-rollouts that a prior counts for (m).
        loss: clipped policy-gradient loss per token.
        grad_norm: before clipping.
        clip_fraction: share of tokens whose ratio was clipped.
        kl: estimate of KL(sampling policy || updated policy) while updating.
        entropy: of the policy; None unless asked for.
        mismatch: mean |log p of the learner - log p of the server| before the update.
        kl_reference: estimate of KL(policy || first policy); None unless `learner.kl` is above 0.
        truncated: share of tokens whose importance weight was capped.
        skipped: updates that were left out because their gradient was no number.
        tokens_per_second: that the learner took, prompts included.
        peak_memory_bytes: of the learner on rank 0.
        staleness_mean: versions by which the step's tokens are older than the weights that learned from them.
        staleness_max: of the oldest token.
        drawing_s: from choosing the step's prompts to closing its groups, whatever else went on meanwhile.
        allocator_s: of these, waits for the allocator on the longest chain of calls.
        replayed: an earlier attempt had drawn the step; its rollouts are counted once.
        seconds: by phase: rollouts (waiting for them), learning, publishing, evaluation, checkpoint.
        degraded: whether the prior or the allocator could not be used in this step.
        fallback: whether decisions of this step were made in this process because the allocator was away.
        detail: why.
        request_ids: of calls that failed or were answered without a prior in this step, as the services' logs name them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    step: int
    version: int
    elapsed_s: float = 0.0
    accuracy: float | None = None
    held_out_accuracy: float | None = None
    held_out_greedy: float | None = None
    held_out_error: float | None = None
    groups: int = 0
    mean_group_size: float | None = None
    rollouts: int = 0
    rollouts_total: int = 0
    rollouts_saved: int = 0
    evaluation_rollouts: int = 0
    cancelled: int = 0
    without_signal: int = 0
    tokens: int = 0
    tokens_total: int = 0
    prior_squared_error: float | None = None
    prior_explained_variance: float | None = None
    prior_strength: float | None = None
    loss: float | None = None
    grad_norm: float | None = None
    clip_fraction: float | None = None
    kl: float | None = None
    entropy: float | None = None
    mismatch: float | None = None
    kl_reference: float | None = None
    truncated: float = 0.0
    skipped: int = 0
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    staleness_mean: float | None = None
    staleness_max: int | None = None
    drawing_s: float = 0.0
    allocator_s: float = 0.0
    replayed: bool = False
    seconds: dict[str, float] = {}
    degraded: bool = False
    fallback: bool = False
    detail: str = ""
    request_ids: list[str] = []


@dataclass(frozen=True, slots=True)
class Started:
    """A run begins, or goes on after `step`."""

    directory: Path
    method: str
    step: int
    rollouts: int


@dataclass(frozen=True, slots=True)
class Phase:
    """What the run does now: rollouts, learning, publishing, evaluation or checkpoint."""

    step: int
    name: str


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step is done, or, as step 0, the measurement before the first."""

    metrics: StepMetrics


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something that a user should know: a service went away or came back, a group was given up."""

    text: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished run. `accuracy_start` and `accuracy_end` are held-out; None where there is nothing to measure on."""

    run_id: str
    method: str
    directory: Path
    steps: int
    rollouts: int
    rollouts_saved: int
    evaluation_rollouts: int
    tokens: int
    seconds: float
    accuracy_start: float | None
    accuracy_end: float | None


Event = Started | Phase | Stepped | Noticed | Summary
Listener = Callable[[Event], None]


def read_metrics(directory: Path) -> list[StepMetrics]:
    """Return the steps of a run so far, one row a step, in order; an unfinished last line is left out.

    Raises:
        ConfigError: there is no `metrics.jsonl` in `directory`, or nothing in it.
    """
    path = directory / METRICS_FILE
    if not path.is_file():
        raise ConfigError(f"{directory} is no run: it has no {METRICS_FILE}")
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    if not lines:
        raise ConfigError(f"{path} is empty: the run has not measured anything yet")
    rows: dict[int, StepMetrics] = {}
    for row in map(StepMetrics.model_validate_json, lines):
        known = rows.get(row.step)
        rows[row.step] = row if known is None else _joined(known, row)
    return list(rows.values())


def is_written(directory: Path, step: int) -> bool:
    """Return whether a run's file has a step."""
    path = directory / METRICS_FILE
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return any(StepMetrics.model_validate_json(line).step == step for line in lines)


def _joined(step: StepMetrics, measurement: StepMetrics) -> StepMetrics:
    """Return a step with what was measured after it."""
    later = measurement.model_dump(exclude_defaults=True)
    return step.model_copy(update={**later, "seconds": {**step.seconds, **measurement.seconds}})


def read_config(directory: Path) -> Config:
    """Return the configuration that a run was started with.

    Raises:
        ConfigError: there is none, or it is of a version with other settings.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"{directory} is no run: it has no {CONFIG_FILE}")
    return load(path)


@contextmanager
def listeners(config: Config, directory: Path, step: int, others: Sequence[Listener] = ()) -> Iterator[Listener]:
    """Enter everything that wants to hear of a run, as one listener.

    Args:
        config: says who listens.
        directory: of the run.
        step: steps that are kept from an earlier attempt; later lines of `metrics.jsonl` are dropped.
        others: told too, first.
    """
    asked = config.logging
    with ExitStack() as stack:
        everyone = [*others, stack.enter_context(_json_lines(directory, step))]
        everyone.append(stack.enter_context(progress_bar(config)) if asked.progress else _plainly)
        if asked.tensorboard:
            everyone.append(stack.enter_context(_tensorboard(directory)))
        if asked.wandb:
            everyone.append(stack.enter_context(_wandb(config, directory)))

        def tell(event: Event) -> None:
            for listener in everyone:
                listener(event)

        yield tell


@contextmanager
def _json_lines(directory: Path, step: int) -> Iterator[Listener]:
    path = directory / METRICS_FILE
    kept = [row for row in read_metrics(directory) if row.step <= step] if path.is_file() and step else []
    draft = path.with_name(f".{path.name}")
    draft.write_text("".join(f"{row.model_dump_json()}\n" for row in kept), encoding="utf-8")
    draft.replace(path)  # killed before or after, nothing of the earlier attempt is lost
    with path.open("a", encoding="utf-8") as lines:

        def write(event: Event) -> None:
            if isinstance(event, Stepped):
                lines.write(f"{event.metrics.model_dump_json()}\n")
                lines.flush()
            elif isinstance(event, Summary):
                record = {name: getattr(event, name) for name in event.__slots__}
                (directory / SUMMARY_FILE).write_text(json.dumps(record, default=str, indent=1), encoding="utf-8")

        yield write


def _plainly(event: Event) -> None:
    """Say on standard error what a user should know, where there is no bar to say it above."""
    if isinstance(event, Noticed):
        _print(Console(stderr=True), event.text)


@contextmanager
def progress_bar(config: Config, console: Console | None = None) -> Iterator[Listener]:
    """Show step, accuracy, rollouts used and saved, and what is out of order; on standard error by default.

    On a terminal that is a bar; elsewhere (a file, CI) whole lines without control characters, one a measurement and
    one every `STEPS_A_LINE` steps.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield partial(_say, console, config.run.rollouts)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[shown]}"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[phase]}"),
    )
    total = config.run.rollouts or config.run.steps
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        task = bar.add_task(config.method, total=total, shown="", phase="starting")
        yield partial(_show, bar, task, config.run.rollouts)


def _show(bar: Progress, task: TaskID, limit: int | None, event: Event) -> None:
    match event:
        case Phase(name=name):
            bar.update(task, phase=name)
        case Stepped(metrics=row):
            done = row.step if limit is None else row.rollouts_total
            bar.update(task, completed=done, shown=_line(row, limit, degraded="[yellow]{}[/yellow]"))
        case Noticed(text=text):
            bar.console.print(text, style="yellow", markup=False, highlight=False)
        case Summary():
            bar.update(task, phase="done")
        case Started():
            pass


def _say(console: Console, limit: int | None, event: Event) -> None:
    match event:
        case Stepped(metrics=row):
            if row.held_out_accuracy is not None or row.step % STEPS_A_LINE == 0:
                _print(console, f"{_line(row, limit)} · {row.elapsed_s:,.0f} s")
        case Noticed(text=text):
            _print(console, text)
        case Started() | Phase() | Summary():
            pass


def _print(console: Console, text: str) -> None:
    """Print a text as it is: a whole line, however wide, and without control characters where nothing shows them."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def _line(row: StepMetrics, limit: int | None, *, degraded: str = "{}") -> str:
    """Return a step in one line; `degraded` is the form of the word for decisions that fell back."""
    used = f"{row.rollouts_total:,}" + (f"/{limit:,}" if limit else "")
    parts = [f"step {row.step}", f"rollouts {used}, saved {row.rollouts_saved:,}"]
    parts += [f"accuracy {row.accuracy:.3f}"] if row.accuracy is not None else []
    parts += [f"held-out {row.held_out_accuracy:.3f}"] if row.held_out_accuracy is not None else []
    parts += [f"{row.tokens_per_second:,.0f} tokens/s"] if row.tokens_per_second else []
    parts += [f"{row.peak_memory_bytes / 2**30:.1f} GiB"] if row.peak_memory_bytes else []
    parts += [degraded.format("fallback" if row.fallback else "degraded")] if row.degraded else []
    return " · ".join(parts)


@contextmanager
def _tensorboard(directory: Path) -> Iterator[Listener]:
    from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415 - optional, slow to import

    writer = SummaryWriter(str(directory / "tensorboard"))
    try:

        def write(event: Event) -> None:
            if isinstance(event, Stepped):
                for name, value in _scalars(event.metrics).items():
                    writer.add_scalar(name, value, event.metrics.step)

        yield write
    finally:
        writer.close()


@contextmanager
def _wandb(config: Config, directory: Path) -> Iterator[Listener]:
    try:
        import wandb  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigError(
            "logging.wandb = true needs the wandb package: pip install wandb, or set it to false"
        ) from None
    settings = config.model_dump(mode="json")
    run = wandb.init(project=config.logging.wandb_project, name=directory.name, dir=str(directory), config=settings)
    try:

        def write(event: Event) -> None:
            if isinstance(event, Stepped):
                run.log(_scalars(event.metrics), step=event.metrics.step)

        yield write
    finally:
        run.finish()


def _scalars(row: StepMetrics) -> dict[str, float]:
    """Return the numbers of a step by name, phases as `seconds/rollouts` and so on."""
    fields: dict[str, Any] = row.model_dump(exclude={"step", "seconds", "detail", "request_ids"})
    numbers = {name: float(value) for name, value in fields.items() if value is not None}
    return numbers | {f"seconds/{phase}": value for phase, value in row.seconds.items()}
