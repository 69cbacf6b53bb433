"""What goes into a replay and what comes out. All figures are on the log's outcome scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoggedGroup:
    """A group as a trainer logged it.

    Attributes:
        group: its id.
        key: identity of its prompt.
        version: training step or weight version that it was drawn under; order of the replay.
        outcomes: of its rollouts, in logged order.
    """

    group: str
    key: str
    version: int
    outcomes: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """One way to size groups: what it draws and how far its baselines are from the truth.

    Attributes:
        name: of the rule.
        rollouts: mean size of a group.
        squared_error: mean of (baseline - success rate)^2, estimated without bias from outcomes that were held out; it
            can be slightly negative where it is near 0.
        standard_error: of that estimate, over groups.
    """

    name: str
    rollouts: float
    squared_error: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Step:
    """One version of the log.

    Attributes:
        without_signal: share of its groups whose outcomes are all equal.
        prior_error: mean squared error of the priors against the groups' success rates, less the noise of these.
        mean_error: the same of the running mean of all outcomes before, the simplest prior there is.
        spread: variance of the success rates between groups, less the same noise.
    """

    version: int
    groups: int
    rollouts: int
    mean_outcome: float
    without_signal: float
    prior_error: float
    mean_error: float
    spread: float


@dataclass(frozen=True, slots=True)
class Replay:
    """The whole report.

    Attributes:
        groups: in the log; `left_out` more were too small to hold anything out.
        rollouts: in the log.
        size: mean size of a logged group.
        logged_error: squared error of the logged groups' own means, the baseline that was used: variance over size.
        ours: the default rule and the same at other prices, by growing size.
        equal: rollouts a group that ours needs for `logged_error`; None where the log is too short to tell.
        between: share saved at equal error, 5th and 95th percentile over resampled groups; None where more than a tenth
            of the resamples do not tell.
        recurring: share of groups whose prompt was logged before.
    """

    groups: int
    left_out: int
    prompts: int
    rollouts: int
    size: float
    low: float
    high: float
    logged_error: float
    without_signal: float
    wasted: int
    recurring: float
    ours: tuple[Point, ...]
    equal: float | None
    between: tuple[float, float] | None
    steps: tuple[Step, ...]
    reading: Mapping[str, str]

    @property
    def saved(self) -> float | None:
        """Share of the logged rollouts that ours saves at equal error of the baseline; negative where it needs more."""
        return None if self.equal is None else 1.0 - self.equal / self.size
