"""What a session counts, under the names that trainers log: `budget/...`.

A window runs from one reading to the next, normally a step. Groups count when they are closed. Owns sums alone, so a
trainer that never reads them holds no group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
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
    largest: int = 0
    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, groups: Sequence[Group]) -> None:
        """Count groups that were closed."""
        for group in groups:
            self.largest = max(self.largest, group.used)
            for name, value in _of_group(group).items():
                self.sums[name] += value

    def read(self, fallback_total: int) -> dict[str, float]:
        """Return the window's figures and begin the next; without a closed group only the totals.

        Outcomes, priors and errors are on the outcome scale. `budget/prior/squared_error` is the mean of
        (mean outcome - prior)^2, which the noise of the mean is part of.
        """
        sums, largest = self.sums, self.largest
        self.sums, self.largest = defaultdict(float), 0
        figures = {"budget/fallback_total": float(fallback_total), "budget/errors_total": float(self.errors)}
        return figures | _of_window(sums, largest, self.reference) if sums["closed"] else figures


def _of_group(group: Group) -> dict[str, float]:
    """Return what one group adds to the sums."""
    added: dict[str, float] = {
        "closed": 1,
        "granted": group.granted,
        "used": group.used,
        "extra": max(group.used - group.opened.grant, 0),
        "returned": max(group.granted - group.used, 0),
        "refused_groups": _refused(group),
        "local_groups": group.local,
        "prior": group.prior,
    }
    if group.size:
        added["drawn"] = 1
        added["flat"] = min(group.outcomes) == max(group.outcomes)
        added["squared_error"] = (fmean(group.outcomes) - group.prior) ** 2
        if group.decision is not None:
            added |= {"decided": 1, "weight": 1.0 - group.decision.weight, "trusted": group.decision.trusted}
    return added


def _of_window(sums: Mapping[str, float], largest: int, reference: int) -> dict[str, float]:
    summed = ("granted", "used", "extra", "returned", "refused_groups", "local_groups")
    figures = {f"budget/{name}": float(sums[name]) for name in summed}
    figures["budget/saved"] = float(reference * sums["closed"] - sums["used"])
    figures["budget/group/k_mean"] = sums["used"] / sums["closed"]
    figures["budget/group/k_max"] = float(largest)
    figures["budget/prior/mean"] = sums["prior"] / sums["closed"]
    if sums["drawn"]:
        figures["budget/group/zero_std_frac"] = sums["flat"] / sums["drawn"]
        figures["budget/prior/squared_error"] = sums["squared_error"] / sums["drawn"]
    if sums["decided"]:
        figures["budget/prior/weight"] = sums["weight"] / sums["decided"]
        figures["budget/prior/trusted_frac"] = sums["trusted"] / sums["decided"]
    return figures


def _refused(group: Group) -> bool:
    last = group.opened.reason if group.decision is None else group.decision.reason
    return "budget_exhausted" in (group.opened.reason, last)
