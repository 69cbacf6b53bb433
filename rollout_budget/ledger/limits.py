"""Limits as they bind a grant: which scopes have them, what is left under them, which are nearly reached. Pure.

Owns how the limits of a team and of a run, as people set them, come to bounds of scopes. The rule of one bound is in
`units`; what is charged to a scope is for `books` and the accounts table to say. A bound in shadow mode refuses nothing:
it says what it would have refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rollout_budget.ledger.books import DAY, MONTH, STEP, TOTAL, Counts, Scope, pattern_of
from rollout_budget.ledger.units import ONE, Amounts, Caps, milliseconds, room, seconds
from rollout_budget.wire import BudgetView, LimitName, LimitUse, RunLimits, TeamLimits

NAMES: Final[Mapping[str, tuple[LimitName, LimitName, LimitName]]] = {
    TOTAL: ("rollouts", "tokens", "gpu_seconds"),
    DAY: ("rollouts_per_day", "tokens_per_day", "gpu_seconds_per_day"),
    MONTH: ("rollouts_per_month", "tokens_per_month", "gpu_seconds_per_month"),
    STEP: ("rollouts_per_step", "tokens_per_step", "gpu_seconds_per_step"),
}
"""What the limits of a window are called where people set them, in the order of `Caps`."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Limits as one account has them: caps by pattern of window, how they bind, what one rollout of it holds."""

    caps: Mapping[str, Caps]
    shadow: bool
    warn_at: float
    each: Amounts = ONE


@dataclass(frozen=True, slots=True)
class Bound:
    """One scope's limits and what is charged to it; `stopped` where its counters were found wrong."""

    scope: Scope
    caps: Caps
    charged: Amounts
    shadow: bool
    warn_at: float
    stopped: bool = False

    def room(self, each: Amounts) -> int | None:
        """Return how many more rollouts that hold `each` it lets through, None if any number; mode apart."""
        left = room(self.caps, self.charged, each)
        return left if not self.stopped else min(0, 0 if left is None else left)

    def uses(self) -> Iterator[LimitUse]:
        """Return its limits with what is charged to them, in people's units."""
        names = NAMES[pattern_of(self.scope.window)]
        for place, (name, cap, used) in enumerate(zip(names, self.caps, self.charged, strict=True)):
            if cap is not None:
                timed = place == Amounts._fields.index("milliseconds")
                yield LimitUse(
                    level="run" if self.scope.account.run else "team",
                    name=name,
                    used=seconds(used) if timed else used,
                    limit=seconds(cap) if timed else cap,
                    share=used / cap if cap else 1.0,
                )


def team_terms(limits: TeamLimits) -> Terms:
    """Return a team's limits by pattern of window."""
    return Terms(_caps(limits, (TOTAL, DAY, MONTH)), limits.mode == "shadow", limits.warn_at)


def run_terms(limits: RunLimits) -> Terms:
    """Return a run's limits by pattern of window, and what one of its rollouts holds."""
    each = Amounts(1, limits.tokens_per_rollout or 0, milliseconds(limits.gpu_seconds_per_rollout or 0.0))
    return Terms(_caps(limits, (TOTAL, STEP)), limits.mode == "shadow", limits.warn_at, each)


def enforced(bounds: Iterable[Bound], each: Amounts) -> int | None:
    """Return how many rollouts may be granted, None if any number: what is in shadow mode refuses nothing."""
    left = [bound.room(each) for bound in bounds if bound.stopped or not bound.shadow]
    return min((some for some in left if some is not None), default=None)


def unrefused(bounds: Iterable[Bound], each: Amounts) -> int | None:
    """Return how many rollouts no limit would refuse, whatever its mode; None if any number."""
    left = [bound.room(each) for bound in bounds]
    return min((some for some in left if some is not None), default=None)


def beyond_shadow(bounds: Iterable[Bound], each: Amounts, granted: int) -> int:
    """Return how many of `granted` rollouts the limits in shadow mode would have refused."""
    left = [bound.room(each) for bound in bounds if bound.shadow]
    least = min((some for some in left if some is not None), default=granted)
    return granted - min(granted, max(0, least))


def warnings(bounds: Iterable[Bound]) -> list[LimitUse]:
    """Return the limits of which at least the share `warn_at` is charged."""
    return [use for bound in bounds for use in bound.uses() if use.share >= bound.warn_at]


def budget_view(team: str, limits: TeamLimits, counts: Counts, bounds: Sequence[Bound]) -> BudgetView:
    """Return what a team is told of its budget."""
    time = _left(bounds, 2)
    return BudgetView(
        team=team,
        limits=limits,
        usage=counts.view(),
        available=_left(bounds, 0),
        available_tokens=_left(bounds, 1),
        available_gpu_seconds=None if time is None else seconds(time),
        uses=[use for bound in bounds for use in bound.uses()],
        warnings=warnings(bounds),
    )


def _left(bounds: Sequence[Bound], unit: int) -> int | None:
    """Return what is left of one unit under the limits that refuse, negative after lowering; None without such."""
    binding = [
        min(cap - bound.charged[unit], 0) if bound.stopped else cap - bound.charged[unit]
        for bound in bounds
        if (cap := bound.caps[unit]) is not None and (bound.stopped or not bound.shadow)
    ]
    return min(binding, default=None)


def _caps(limits: TeamLimits | RunLimits, patterns: Sequence[str]) -> dict[str, Caps]:
    found = {}
    for pattern in patterns:
        rollouts, tokens, time = (getattr(limits, name) for name in NAMES[pattern])
        found[pattern] = Caps(rollouts, tokens, None if time is None else milliseconds(time))
    return found
