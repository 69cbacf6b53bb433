"""The evaluation itself: fits every head to every support, asks it for the targets, scores and times the answers.

Knows no files and no formats; randomness comes from the seeds of the splits alone.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TextIO

import numpy as np

from rollout_budget.outcomes import FloatArray
from rollout_budget.wire import EvidenceRow
from services.prior_api.context import share
from services.prior_api.evaluate import scores
from services.prior_api.evaluate.calibration import Bins
from services.prior_api.evaluate.contestants import Contestant
from services.prior_api.evaluate.data import Key, Outcomes, Row, text_hash
from services.prior_api.evaluate.progress import Progress
from services.prior_api.evaluate.scores import Scores
from services.prior_api.evaluate.splits import Protocol, Split, judged, split
from services.prior_api.heads import Context, Predictions, Predictor, Question
from services.prior_api.heads.base import Float32Array
from services.prior_api.quality import levels_of
from services.prior_api.records import Cell, Level, Policy

TEAM = "evaluation"
LATENCY_PROMPTS = 512
"""Prompts of the question that is timed: a training step."""
LATENCY_CALLS = 5
"""Its time is the median of these."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is compared on what.

    Attributes:
        splits: random cuts of every key; the first has the seed `seed`, the next the one after it.
        support: own rows of a key that may be learned from, and rows held back, at most.
        max_rows: rows in one fit, shared out among policies as the service does, newest versions first.
        max_keys: keys judged under one protocol, at most.
    """

    protocols: Sequence[Protocol]
    splits: int
    seed: int
    support: int
    max_rows: int
    max_keys: int

    @property
    def seeds(self) -> range:
        """One seed a split."""
        return range(self.seed, self.seed + self.splits)


@dataclass(frozen=True, slots=True)
class Judgement:
    """How one head did on the targets of one key in one split.

    Attributes:
        met: targets whose prompts the support speaks of.
    """

    key: Key
    seed: int
    scores: Scores
    bins: Bins
    targets: int
    met: int
    support: int


@dataclass(slots=True)
class Result:
    """One head under one protocol.

    Attributes:
        failure: why there are no judgements; empty if there are.
        fit_s: of every fit.
        values_ms: for a question of `LATENCY_PROMPTS` prompts.
    """

    protocol: Protocol
    head: str
    learns: bool
    version: str = ""
    judgements: list[Judgement] = field(default_factory=list)
    fit_s: list[float] = field(default_factory=list)
    values_ms: float = np.nan
    failure: str = ""

    def by_split(self) -> list[list[Judgement]]:
        """Return the judgements of each split."""
        groups: dict[int, list[Judgement]] = defaultdict(list)
        for judgement in self.judgements:
            groups[judgement.seed].append(judgement)
        return list(groups.values())

    def by_key(self) -> dict[Key, list[Judgement]]:
        """Return the judgements of each policy and version."""
        groups: dict[Key, list[Judgement]] = defaultdict(list)
        for judgement in self.judgements:
            groups[judgement.key].append(judgement)
        return dict(sorted(groups.items()))


class Material:
    """Outcomes as heads see them: cells, histories and levels, made from any choice of rows."""

    def __init__(self, outcomes: Outcomes, features: dict[str, Float32Array]) -> None:
        self.outcomes, self.features = outcomes, features
        self._hashes = {key: text_hash(outcomes.texts[key]) for key in outcomes.prompts if key in outcomes.texts}
        self._truths: dict[Key, dict[str, float]] = {}

    def context(self, rows: Sequence[Row]) -> Context:
        """Return rows as evidence for a fit."""
        return Context([self._cell(row) for row in rows], self.features)

    def question(self, key: Key, prompts: Sequence[str], support: Sequence[Row]) -> Question:
        """Ask for prompts under a policy and version, given what `support` says of that policy."""
        policy, version = key
        histories: dict[str, list[Cell]] = defaultdict(list)
        own = [row for row in support if row.policy == policy]
        for row in own:
            histories[row.prompt].append(self._cell(row))
        return Question(
            owner=(TEAM, policy),
            version=version,
            identities=[self._identity(prompt) for prompt in prompts],
            features=self.features,
            histories=[histories[prompt] for prompt in prompts],
            levels=_levels(own),
        )

    def truth(self, key: Key, targets: Sequence[Row]) -> FloatArray:
        """Return the denoised rates of targets; the law that denoises them is fitted to all rows of their key."""
        if key not in self._truths:
            self._truths[key] = scores.denoised(self.outcomes.rows[key])
        return np.array([self._truths[key][row.prompt] for row in targets])

    def _cell(self, row: Row) -> Cell:
        return Cell(
            TEAM, row.policy, row.prompt, self._hashes.get(row.prompt), row.version, row.successes, row.trials, 1
        )

    def _identity(self, prompt: str) -> str:
        return Cell(TEAM, "", prompt, self._hashes.get(prompt), 0, 0.0, 0, 0).identity


def evaluate(
    material: Material, contestants: Sequence[Contestant], options: Options, stream: TextIO
) -> tuple[list[Result], list[str]]:
    """Judge every head under every protocol; return results in that order, and what was left out, in sentences."""
    splits = {seed: split(material.outcomes, seed, options.support) for seed in options.seeds}
    results, notes = [], []
    for protocol in options.protocols:
        keys = judged(material.outcomes, splits[options.seed], protocol, options.max_keys)
        if not keys:
            notes.append(f"{protocol.name} is left out: {protocol.meaning}; no key of the folder has what it takes.")
            continue
        notes += _cuts(material, protocol, splits[options.seed], keys, options)
        found = [Result(protocol, contestant.name, contestant.learns) for contestant in contestants]
        progress = Progress(stream, protocol.name, "keys", len(splits) * len(keys))
        for task in _tasks(material, protocol, splits, keys, options.max_rows):
            for contestant, result in zip(contestants, found, strict=True):
                if not result.failure:
                    _judge(material, contestant, result, task)
            progress.add()
        results += found
    return results, notes


def bounded(rows: Sequence[Row], most: int) -> list[Row]:
    """Return at most `most` rows: every policy gets an equal part, its newest versions first, as in the service."""
    by_policy: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_policy[row.policy].append(row)
    policies = [Policy(TEAM, name, "private", len(own)) for name, own in sorted(by_policy.items())]
    return [
        row
        for policy, part in share(policies, most)
        for row in sorted(by_policy[policy.policy], key=lambda row: (-row.version, row.prompt))[:part]
    ]


@dataclass(frozen=True, slots=True)
class _Task:
    """The targets of one key in one split, what is known of them, and the part of it that fits into one fit."""

    key: Key
    seed: int
    support: Sequence[Row]
    targets: Sequence[Row]
    context: Context


def _tasks(
    material: Material, protocol: Protocol, splits: Mapping[int, Split], keys: Sequence[Key], max_rows: int
) -> Iterator[_Task]:
    for seed, cut in splits.items():
        for key in keys:
            support = protocol.support(material.outcomes, cut, key)
            yield _Task(key, seed, support, cut.targets[key], material.context(bounded(support, max_rows)))


def _judge(material: Material, contestant: Contestant, result: Result, task: _Task) -> None:
    """Add one judgement to a result, or the reason why there can be none."""
    key, support, targets = task.key, task.support, task.targets
    began = time.perf_counter()
    try:
        predictor = contestant.fit(task.context)
        result.fit_s.append(time.perf_counter() - began)
        predictions = predictor.values(material.question(key, [row.prompt for row in targets], support))
        if np.isnan(result.values_ms):
            result.values_ms, result.version = _latency_ms(material, predictor, key, support), predictor.version
    except (ArithmeticError, ImportError, OSError, RuntimeError, ValueError) as error:
        result.failure, result.judgements = f"{type(error).__name__}: {error}", []
    else:
        result.judgements.append(_judgement(material, task, predictions))


def _judgement(material: Material, task: _Task, predictions: Predictions) -> Judgement:
    met = {row.prompt for row in task.support}
    return Judgement(
        task.key,
        task.seed,
        scores.score(predictions, task.targets, material.truth(task.key, task.targets)),
        Bins.of(predictions.values, np.array([row.rate for row in task.targets])),
        len(task.targets),
        sum(row.prompt in met for row in task.targets),
        len(task.support),
    )


def _latency_ms(material: Material, predictor: Predictor, key: Key, support: Sequence[Row]) -> float:
    """Return the time of a question of `LATENCY_PROMPTS` prompts, the folder's own, repeated where it has fewer."""
    known = material.outcomes.prompts
    prompts = [known[place % len(known)] for place in range(LATENCY_PROMPTS)]
    question = material.question(key, prompts, support)
    times = [time.perf_counter()]
    for _ in range(LATENCY_CALLS):
        predictor.values(question)
        times.append(time.perf_counter())
    return median(np.diff(times).tolist()) * 1e3


def _cuts(material: Material, protocol: Protocol, cut: Split, keys: Sequence[Key], options: Options) -> Iterator[str]:
    """Say where a bound of the options has left something out."""
    able = len(judged(material.outcomes, cut, protocol, len(material.outcomes.rows)))
    if able > len(keys):
        yield f"{protocol.name}: {len(keys)} of {able} policies and versions were judged (--max-keys)."
    rows = max(len(protocol.support(material.outcomes, cut, key)) for key in keys)
    if rows > options.max_rows:
        yield f"{protocol.name}: fits took {options.max_rows} of up to {rows} rows (--max-rows)."


def _levels(rows: Sequence[Row]) -> list[Level]:
    """Return the sums that controls use; rows were checked when they were read, and sums of them may pass the wire's bounds."""
    return levels_of(
        EvidenceRow.model_construct(
            id="", key=row.prompt, version=row.version, successes=row.successes, trials=row.trials
        )
        for row in rows
    )
