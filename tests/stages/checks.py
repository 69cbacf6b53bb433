"""What must hold after a case, whatever happened in it. Each check returns what is wrong, in words; empty is good."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.stages.cases import STEPS, Case
from tests.stages.director import Outcome
from trainer.journal import Journal, StepJournal
from trainer.metrics import StepMetrics, read_metrics

TOLERANCE = 1e-4
"""Of a log-probability: both sides compute in float32; a version off by one learning step differs by a hundred times that."""
LOOKED_AT = 6
"""Samples of a step whose log-probabilities are computed again."""
NOTHING_LOST = {"prior", "allocator"}
"""Targets whose faults cost no completion: then vLLM's count is the trainer's, not just at least that."""


@dataclass(frozen=True, slots=True)
class Read:
    """A finished run as its files tell it."""

    summary: dict[str, Any]
    lines: list[dict[str, Any]]
    rows: list[StepMetrics]
    journal: list[StepJournal]

    @classmethod
    def of(cls, outcome: Outcome) -> Read:
        """Read a run."""
        text = (outcome.directory / "metrics.jsonl").read_text()
        journal = Journal(outcome.record)
        return cls(
            json.loads((outcome.directory / "summary.json").read_text()),
            [json.loads(line) for line in text.splitlines()],
            read_metrics(outcome.directory),
            [journal.step(step) for step in range(1, STEPS + 1)],
        )


def violations(case: Case, outcome: Outcome, reference: Outcome | None = None) -> list[str]:
    """Return everything that is wrong after a case.

    Args:
        case: what happened.
        outcome: what it left.
        reference: a run of the same settings in which nothing happened; its weights and rollouts must be met.
    """
    found = [f"{strike} never happened" for strike in case.strikes if strike not in outcome.struck]
    if outcome.statuses[-1] != 0 or not (outcome.directory / "summary.json").is_file():
        tail = " / ".join(outcome.log.read_text(errors="replace").splitlines()[-3:])
        return [*found, f"G22: the trainer ended with {outcome.statuses}: {tail}"]
    if any(status > 0 for status in outcome.statuses):
        found.append(f"G22: the trainer ended with {outcome.statuses}")
    read = Read.of(outcome)
    found += [*_steps(case, read), *_books(read, outcome), *_journal(read), *_completions(case, read, outcome)]
    found += [] if case.ahead else _said(case, read, outcome)
    found += _versions(case, read, outcome.directory / "weights")
    if reference is not None:
        found += _same(read, outcome, Read.of(reference), reference)
    return found


def _steps(case: Case, read: Read) -> Iterator[str]:
    steps = [line["step"] for line in read.lines]
    if steps != list(range(STEPS + 1)) or read.summary["steps"] != STEPS:
        yield f"G22: metrics.jsonl has steps {steps}, the summary {read.summary['steps']}"
    worst = max((row.mismatch or 0.0 for row in read.rows[1:]), default=0.0)
    if worst > TOLERANCE and not case.ahead:
        yield f"G23: the learner saw log-probabilities that differ from the servers' by {worst:.1e}"


def _said(case: Case, read: Read, outcome: Outcome) -> Iterator[str]:
    """Steps say that they were decided without the prior, or here, where that is so."""
    for strike, step in outcome.struck.items():
        if len(case.strikes) > 1 or strike.fault not in {"lose", "gone", "hang"}:
            continue
        after = [row for row in read.rows if row.step > step]
        if strike.target == "prior" and not all(row.degraded and row.detail and not row.fallback for row in after):
            yield f"G22: steps after {step} do not say that they had no prior"
        if strike.target == "allocator" and not all(row.degraded and row.detail and row.fallback for row in after):
            yield f"G22: steps after {step} do not say that they were decided here"


def _books(read: Read, outcome: Outcome) -> Iterator[str]:
    if outcome.run is None:
        yield "G22: the allocator does not know the run"
        return
    usage, drawn = outcome.run.usage, read.summary["rollouts"]
    if outcome.run.status != "finished":
        yield f"G22: the allocator has the run as {outcome.run.status}"
    if usage.committed + usage.overage != drawn or usage.reserved != 0:
        yield f"G22: {usage} is booked, {drawn} were drawn"
    if usage.overage and not any(row.fallback for row in read.rows):
        yield f"G22: {usage.overage} rollouts are overage though every decision was the allocator's"
    if (told := sum(row.rollouts for row in read.rows)) != drawn:
        yield f"G23: the steps have {told} rollouts, the run {drawn}"


def _journal(read: Read) -> Iterator[str]:
    """Every counted rollout is on record once, in a group that was learned from."""
    rollouts = {row.step: row.rollouts for row in read.rows}
    for number, step in enumerate(read.journal, start=1):
        if step.ended is None:
            yield f"G24: step {number} has no end on record"
            continue
        waves = Counter(json.dumps(_plain(wave)) for group in step.waves.values() for wave in group)
        if doubled := sum(count - 1 for count in waves.values()):
            yield f"G24: {doubled} waves of step {number} are on record twice"
        noted = sum(len(wave.samples) for group in step.waves.values() for wave in group)
        learned = sum(len(group.samples) for group in step.groups())
        counted = rollouts.get(number, 0)
        if not noted == learned == counted:
            yield f"G24: step {number} has {noted} rollouts on record, {learned} learned from, {counted} counted"


def _plain(wave: Any) -> list[Any]:
    return [[sample.token_ids, sample.logprobs] for sample in wave.samples]


def _completions(case: Case, read: Read, outcome: Outcome) -> Iterator[str]:
    drawn = read.summary["rollouts"] + read.summary["evaluation_rollouts"]
    if case.targets <= NOTHING_LOST and not case.ahead and outcome.finished != drawn:
        yield f"G23: vLLM finished {outcome.finished} completions, the trainer counts {drawn}"
    killed = any(one.target == "server" and one.fault in {"kill", "lose", "gone"} for one in case.strikes)
    if not killed and outcome.finished < drawn:
        yield f"G23: vLLM finished {outcome.finished} completions, the trainer counts {drawn}"


def _versions(case: Case, read: Read, weights: Path) -> Iterator[str]:
    """Every token is of the version that its step's predecessor made, or as much older as drawing may be ahead.

    By its label, and by its log-probability.
    """
    for number, step in enumerate(read.journal, start=1):
        if step.ended is None:
            continue
        drawn = [(group.prompt_ids, sample) for group in step.groups() for sample in group.samples]
        right = set(range(max(0, number - 1 - case.ahead), number))
        if wrong := {one for _, sample in drawn for one in sample.token_versions} - right:
            yield f"G23: step {number} was drawn under versions {sorted(wrong)}"
        for version in sorted(right):
            whole = [(ids, one) for ids, one in drawn if set(one.token_versions) == {version}]
            chosen = whole[:: max(1, len(whole) // LOOKED_AT)]
            worst = worst_difference(
                weights / f"v{version}", [(ids, one.token_ids, one.logprobs) for ids, one in chosen]
            )
            if worst > TOLERANCE:
                yield f"G23: log-probabilities of step {number} are not those of version {version}: {worst:.1e}"


def worst_difference(directory: Path, samples: Sequence[tuple[Sequence[int], Sequence[int], Sequence[float]]]) -> float:
    """Return the largest difference between given log-probabilities and those of exported weights.

    Args:
        directory: an export.
        samples: prompts, completions and the log-probabilities of the latter.
    """
    if not samples:
        return 0.0
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    worst = 0.0
    with torch.no_grad():
        for prompt, completion, given in samples:
            ids = torch.tensor([[*prompt, *completion]])
            scores = torch.log_softmax(model(ids).logits[0, len(prompt) - 1 : -1], dim=-1)
            own = scores[torch.arange(len(completion)), torch.tensor(completion)]
            worst = max(worst, float((own - torch.tensor(given)).abs().max()))
    return worst


def _same(read: Read, outcome: Outcome, other: Read, reference: Outcome) -> Iterator[str]:
    """A run that was killed draws what an undisturbed one draws, and ends with its weights."""
    for number, (step, theirs) in enumerate(zip(read.journal, other.journal, strict=True), start=1):
        if step.ended is None or theirs.ended is None:
            continue
        if _tokens(step) != _tokens(theirs):
            yield f"G24: step {number} drew other rollouts than an undisturbed run"
            return
    mine, whole = (
        load_file(one.directory / "weights" / f"v{STEPS}" / "model.safetensors") for one in (outcome, reference)
    )
    worst = max(float((mine[name] - whole[name]).abs().max()) for name in whole)
    if worst > 0.0:
        yield f"G24: the weights differ from an undisturbed run's by {worst:.1e}"


def _tokens(step: StepJournal) -> list[tuple[str, list[tuple[int, ...]]]]:
    return [(group.group_id, [sample.token_ids for sample in group.samples]) for group in step.groups()]
