"""Plays a log through the engine, and measures the baselines against outcomes that they have not seen.

A logged group of n outcomes lends its first k to the allocator. The rest, r = n - k of them, are independent of these
given the prompt's success rate p, so (b - m)^2 - s^2 / r, with their mean m and unbiased variance s^2, estimates
(b - p)^2 without bias, whatever decided on k. A group therefore keeps two outcomes back. The error of a mean of n
outcomes is s^2 / n, from all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from rollout_budget.client import SyncLocalAllocator
from rollout_budget.errors import InvalidInput
from rollout_budget.outcomes import FloatArray
from rollout_budget.replay.records import LoggedGroup, Point, Replay, Step
from rollout_budget.wire import (
    CloseGroup,
    CloseRequest,
    ObserveGroup,
    ObserveRequest,
    OpenGroup,
    OpenRequest,
    Range,
    RunSpec,
)

HELD_BACK = 2
"""Outcomes of a group that no baseline sees: the fewest with a variance."""
SMALLEST = HELD_BACK + 1
CHUNK = 4096
PRICES = (16.0, 4.0, 1.0, 0.25, 1.0 / 16.0, 1.0 / 64.0)
"""Multiples of the default price (1/8^2 on a {-1, +1} scale): from hardly more than the first wave to nearly everything."""
DEFAULT_PRICE = 1.0 / 256.0
"""1/8^2 on a scale of width 2, per squared width."""

RESAMPLES = 400
TELLING = 0.9
"""Share of resamples that must reach the logged error, for an interval to be given."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Played:
    """A group after its replay: `used` of its outcomes, the prior and the baseline, on the log's scale."""

    group: LoggedGroup
    prior: float
    baseline: float
    used: int


def replay(
    groups: Sequence[LoggedGroup],
    *,
    low: float | None = None,
    high: float | None = None,
    reading: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Replay:
    """Return what the default rule would have done with a log, and with other prices.

    Args:
        groups: by growing version.
        low: lowest outcome that there can be; by default the smaller of 0 and the lowest logged.
        high: highest; by default the larger of 1 and the highest logged.
        reading: how the log was read, for the report.
        progress: called with the number of plays done and their total.

    Raises:
        InvalidInput: no group has three outcomes, or one is outside the range.
    """
    scale = _scale(groups, low, high)
    usable = [group for group in groups if len(group.outcomes) >= SMALLEST]
    if not usable:
        raise InvalidInput(f"no group has {SMALLEST} outcomes: nothing can be held out to measure baselines by")
    ways, played = [], list[_Played]()
    for number, price in enumerate(PRICES):
        found = _play(usable, scale, price)
        played = found if price == 1.0 else played
        ways.append(_Way.of(found, price))
        if progress is not None:
            progress(number + 1, len(PRICES))
    sizes = [len(one.group.outcomes) for one in played]
    means = np.array([_variance(one.group.outcomes) / len(one.group.outcomes) for one in played])
    everyone = np.arange(len(played))
    flat = [group for group in usable if min(group.outcomes) == max(group.outcomes)]
    ours, logged = _points(ways, everyone), float(means.mean())
    return Replay(
        groups=len(usable),
        left_out=len(groups) - len(usable),
        prompts=len({group.key for group in usable}),
        rollouts=sum(sizes),
        size=float(np.mean(sizes)),
        low=scale.low,
        high=scale.high,
        logged_error=logged,
        without_signal=len(flat) / len(usable),
        wasted=sum(len(group.outcomes) for group in flat),
        recurring=1.0 - len({group.key for group in usable}) / len(usable),
        ours=ours,
        equal=_equal(ours, logged),
        between=_between(ways, means, np.array(sizes)),
        steps=tuple(_steps(played)),
        reading=dict(reading or {}),
    )


def _scale(groups: Sequence[LoggedGroup], low: float | None, high: float | None) -> Range:
    values = [outcome for group in groups for outcome in group.outcomes]
    if not values:
        raise InvalidInput("the log has no outcome")
    scale = Range(low=min(0.0, *values) if low is None else low, high=max(1.0, *values) if high is None else high)
    scale.core().to_unit(values)
    return scale


def _play(groups: Sequence[LoggedGroup], scale: Range, price: float) -> list[_Played]:
    """Replay a log at `price` times the default price."""
    allocator = SyncLocalAllocator()
    largest = max(len(group.outcomes) for group in groups)
    cost = price * DEFAULT_PRICE * (scale.high - scale.low) ** 2
    spec = RunSpec(run_id="replay", policy="logged", outcome_range=scale, k_max=min(largest, 1024), price=cost)
    allocator.create_run(spec)
    played = []
    for _, same in groupby(enumerate(groups), key=lambda item: item[1].version):
        step = {f"{number}": group for number, group in same}
        names = list(step)
        for first in range(0, len(names), CHUNK):
            played += _batch(allocator, {name: step[name] for name in names[first : first + CHUNK]})
    return played


def _batch(allocator: SyncLocalAllocator, batch: Mapping[str, LoggedGroup]) -> list[_Played]:
    """Open, observe and close groups of one version; none is lent its last two outcomes."""
    asked = [
        OpenGroup(group_id=name, prompt_key=group.key, policy_version=max(group.version, 0))
        for name, group in batch.items()
    ]
    opened = allocator.open("replay", OpenRequest(groups=asked)).groups
    priors = {one.group_id: one.prior for one in opened}
    used = {one.group_id: min(one.grant, len(batch[one.group_id].outcomes) - HELD_BACK) for one in opened}
    baselines = dict(priors)
    asking = [name for name in batch if used[name]]
    while asking:
        reports = [ObserveGroup(group_id=name, outcomes=list(batch[name].outcomes[: used[name]])) for name in asking]
        answers = allocator.observe("replay", ObserveRequest(groups=reports)).groups
        asking = []
        for one in answers:
            baselines[one.group_id] = one.baseline
            left = len(batch[one.group_id].outcomes) - HELD_BACK - used[one.group_id]
            if one.action == "more" and min(one.more, left) > 0:
                used[one.group_id] += min(one.more, left)
                asking.append(one.group_id)
    closing = [CloseGroup(group_id=name, used=used[name]) for name in batch]
    allocator.close("replay", CloseRequest(groups=closing))
    return [_Played(batch[name], priors[name], baselines[name], used[name]) for name in batch]


@dataclass(frozen=True, slots=True)
class _Way:
    """What one price comes to, group by group: rollouts used, and the estimate of the baseline's squared error."""

    name: str
    used: FloatArray
    errors: FloatArray

    @classmethod
    def of(cls, played: Sequence[_Played], price: float) -> _Way:
        name = "default" if price == 1.0 else f"price x {price:g}"
        errors = [_error(one.baseline, one.group.outcomes[one.used :]) for one in played]
        return cls(name, np.array([float(one.used) for one in played]), np.array(errors))


def _points(ways: Sequence[_Way], groups: NDArray[np.intp]) -> tuple[Point, ...]:
    """Return each way over these groups, by growing size."""
    points = [
        Point(
            way.name,
            float(way.used[groups].mean()),
            float(way.errors[groups].mean()),
            float(way.errors[groups].std() / np.sqrt(groups.size)),
        )
        for way in ways
    ]
    return tuple(sorted(points, key=lambda point: point.rollouts))


def _between(ways: Sequence[_Way], means: FloatArray, sizes: NDArray[np.int_]) -> tuple[float, float] | None:
    """Return percentiles of the share saved, over groups drawn anew with replacement."""
    chance = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        groups = chance.integers(0, means.size, means.size)
        equal = _equal(_points(ways, groups), float(means[groups].mean()))
        if equal is not None:
            found.append(1.0 - equal / float(sizes[groups].mean()))
    if len(found) < TELLING * RESAMPLES:
        return None
    low, high = np.quantile(found, [0.05, 0.95])
    return float(low), float(high)


def _error(value: float, unseen: Sequence[float]) -> float:
    """Estimate (value - p)^2 from outcomes that `value` does not depend on."""
    return (value - float(np.mean(unseen))) ** 2 - _variance(unseen) / len(unseen)


def _variance(outcomes: Sequence[float]) -> float:
    return float(np.var(outcomes, ddof=1))


def _equal(points: Sequence[Point], error: float) -> float | None:
    """Return the size at which the curve of points crosses an error; straight between points in size and 1 / error."""
    for near, far in pairwise(points):
        if near.squared_error > error >= far.squared_error:
            inverse = [1.0 / max(point.squared_error, error * 1e-3) for point in (near, far)]
            share = (1.0 / error - inverse[0]) / (inverse[1] - inverse[0])
            return near.rollouts + share * (far.rollouts - near.rollouts)
    if points and points[0].squared_error <= error:
        return points[0].rollouts
    return None


def _steps(played: Sequence[_Played]) -> Iterator[Step]:
    """Give figures by version; priors are judged by whole groups, which their outcomes came after."""
    total, count = 0.0, 0
    for version, same in groupby(played, key=lambda one: one.group.version):
        here = list(same)
        means = np.array([np.mean(one.group.outcomes) for one in here])
        noise = float(np.mean([_variance(one.group.outcomes) / len(one.group.outcomes) for one in here]))
        running = total / count if count else float(means.mean())
        sizes = [len(one.group.outcomes) for one in here]
        yield Step(
            version=version,
            groups=len(here),
            rollouts=sum(sizes),
            mean_outcome=float(means.mean()),
            without_signal=float(np.mean([len(set(one.group.outcomes)) == 1 for one in here])),
            prior_error=float(np.mean((np.array([one.prior for one in here]) - means) ** 2)) - noise,
            mean_error=float(np.mean((running - means) ** 2)) - noise,
            spread=float(np.var(means, ddof=1)) - noise if len(here) > 1 else 0.0,
        )
        total += float(sum(sum(one.group.outcomes) for one in here))
        count += sum(sizes)
