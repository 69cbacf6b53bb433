"""What a session counts, under the names that trainers log: `budget/...`.

A window runs from one reading to the next, normally a step. Groups count when they are closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from rollout_budget.session.groups import Group


@dataclass(slots=True)
class Tally:
    """Counts of a window, and totals that only grow.

    Attributes:
        reference: fixed group size that savings are stated against.
    """

    reference: int
    errors: int = 0
    closed: list[Group] = field(default_factory=list)

    def add(self, groups: Sequence[Group]) -> None:
        """Count groups that were closed."""
        self.closed += groups

    def read(self, fallback_total: int) -> dict[str, float]:
        """Return the window's figures and begin the next; without a closed group only the totals.

        Outcomes, priors and errors are on the outcome scale. `budget/prior/squared_error` is the mean of
        (mean outcome - prior)^2, which the noise of the mean is part of.
        """
        groups, self.closed = self.closed, []
        figures = {"budget/fallback_total": float(fallback_total), "budget/errors_total": float(self.errors)}
        return figures | _of_groups(groups, self.reference) if groups else figures


def _of_groups(groups: Sequence[Group], reference: int) -> dict[str, float]:
    drawn = [group for group in groups if group.size]
    sizes = [group.used for group in groups]
    figures = {
        "budget/granted": float(sum(group.granted for group in groups)),
        "budget/used": float(sum(sizes)),
        "budget/extra": float(sum(max(group.used - group.opened.grant, 0) for group in groups)),
        "budget/returned": float(sum(max(group.granted - group.used, 0) for group in groups)),
        "budget/saved": float(reference * len(groups) - sum(sizes)),
        "budget/refused_groups": float(sum(_refused(group) for group in groups)),
        "budget/local_groups": float(sum(group.local for group in groups)),
        "budget/group/k_mean": fmean(sizes),
        "budget/group/k_max": float(max(sizes)),
        "budget/prior/mean": fmean(group.prior for group in groups),
    }
    if drawn:
        decisions = [group.decision for group in drawn if group.decision is not None]
        figures |= {
            "budget/group/zero_std_frac": fmean(min(group.outcomes) == max(group.outcomes) for group in drawn),
            "budget/prior/squared_error": fmean((fmean(group.outcomes) - group.prior) ** 2 for group in drawn),
        }
        if decisions:
            figures["budget/prior/weight"] = fmean(1.0 - decision.weight for decision in decisions)
            figures["budget/prior/trusted_frac"] = fmean(decision.trusted for decision in decisions)
    return figures


def _refused(group: Group) -> bool:
    last = group.opened.reason if group.decision is None else group.decision.reason
    return "budget_exhausted" in (group.opened.reason, last)
