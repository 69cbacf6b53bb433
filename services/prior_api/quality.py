"""How good values were that had been given before their evidence came, and the sums that this and the controls need.

Squared errors are against the prompt's true success rate: the outcome noise of the evidence, estimated from rows with
two or more trials, is taken out. Pure arithmetic on sums.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from rollout_budget.wire import EvidenceRow, VersionQuality
from services.prior_api.records import Level, Scores

QUALITY_BINS = 10
"""Bins of predicted values in the calibration error: each needs some dozens of rows to say anything."""
SMALLEST_VARIANCE = 1e-6
"""Below this variance of true rates there is nothing to explain."""


def levels_of(rows: Iterable[EvidenceRow]) -> list[Level]:
    """Add rows up by version, in order of version."""
    by_version: dict[int, list[EvidenceRow]] = defaultdict(list)
    for row in rows:
        by_version[row.version].append(row)
    return [_level(version, by_version[version]) for version in sorted(by_version)]


def _level(version: int, rows: Sequence[EvidenceRow]) -> Level:
    rates = [row.successes / row.trials for row in rows]
    within = [
        rate * (1 - rate) * row.trials / (row.trials - 1)
        for rate, row in zip(rates, rows, strict=True)
        if row.trials >= 2
    ]
    return Level(
        version=version,
        rows=len(rows),
        trials=sum(row.trials for row in rows),
        successes=sum(row.successes for row in rows),
        rates=sum(rates),
        squared_rates=sum(rate * rate for rate in rates),
        within=sum(within),
        within_rows=len(within),
        inverse_trials=sum(1 / row.trials for row in rows),
    )


def scores_of(rows: Iterable[EvidenceRow], given: Mapping[tuple[int, str], float]) -> list[Scores]:
    """Add up how values did that were given before these rows, by version and tenth of [0, 1].

    Args:
        rows: of one policy.
        given: by version and key.
    """
    sums: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0] * 5)
    counts: dict[tuple[int, int], int] = defaultdict(int)
    for row in rows:
        value = given.get((row.version, row.key))
        if value is None:
            continue
        place = row.version, min(int(value * QUALITY_BINS), QUALITY_BINS - 1)
        rate = row.successes / row.trials
        terms = (value, rate, rate * rate, (value - rate) ** 2, 1 / row.trials)
        sums[place] = [old + term for old, term in zip(sums[place], terms, strict=True)]
        counts[place] += 1
    return [Scores(*place, counts[place], *sums[place]) for place in sorted(sums)]


def quality(level: Level, scores: Sequence[Scores]) -> VersionQuality:
    """Return the figures of one version; `scores` are that version's."""
    counts = {"version": level.version, "rows": level.rows, "trials": level.trials}
    mean = min(1.0, level.successes / level.trials)
    predicted = sum(score.rows for score in scores)
    if not predicted:
        return VersionQuality(**counts, mean=mean)
    noise = level.within / level.within_rows if level.within_rows else 0.0
    noise *= sum(score.inverse_trials for score in scores) / predicted
    error = max(0.0, sum(score.squared_errors for score in scores) / predicted - noise)
    rate = sum(score.rates for score in scores) / predicted
    variance = sum(score.squared_rates for score in scores) / predicted - rate * rate - noise
    return VersionQuality(
        **counts,
        mean=mean,
        predicted=predicted,
        squared_error=error,
        explained_variance=1 - error / variance if variance > SMALLEST_VARIANCE else None,
        calibration_error=sum(abs(score.values - score.rates) for score in scores) / predicted,
    )
