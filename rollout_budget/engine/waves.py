"""What a batch of groups should draw next, and the rollouts held for it in the ledger.

Owns the joint of decisions and ledger: under a cap rollouts go where they are worth most. A limit per step needs one
reservation per step; steps are served in order, so that an older step is not starved by a newer one.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rollout_budget import allocation, decisions
from rollout_budget.decisions import Plan, Rules
from rollout_budget.engine.ids import reservation_ids
from rollout_budget.engine.records import GroupRecord, RunRecord
from rollout_budget.groups import Groups
from rollout_budget.ledger.base import Account, Ask, Ledger, Share
from rollout_budget.reliability import Reliability
from rollout_budget.stopping import Worth
from rollout_budget.wire import Reason

SPENT_BEFORE_RENEWAL = 1 / 8
"""Share of a lease that may be gone before a report renews it: what a report may find already gone at its answer."""
Terms = tuple[int, float]
"""Step (-1 for none) and lease in seconds: what the asks of one reservation call have in common."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A hold that one group of a batch asks for: `index` is its place in the plan, `extra` says it is no first wave."""

    index: int
    reservation: str
    rollouts: int
    step: int | None
    lease_s: float
    policy: str
    extra: bool


def plan(rules: Rules, groups: Groups, reliability: Reliability) -> Plan:
    """Plan the next wave of every group; one without outcomes plans its first."""
    following = decisions.next_wave(rules, groups, reliability)
    if groups.sizes.all():
        return following
    first = decisions.first_wave(rules, groups, reliability)
    return replace(following, wanted=np.where(groups.sizes == 0, first.wanted, following.wanted))


def refusal(run: RunRecord) -> Reason:
    """Return why a group that wants rollouts gets none."""
    return "restored" if run.withheld else "budget_exhausted"


def reasons(
    groups: Groups, planned: Plan, more: Sequence[int], k_max: int, refused: Reason = "budget_exhausted"
) -> list[Reason]:
    """Return why each group draws `more` rollouts, no more and no fewer."""
    return [
        "no_signal"
        if given_up
        else refused
        if wanted and not granted
        else _reason(size, granted, k_max, priced=planned.worth.priced)
        for size, wanted, granted, given_up in zip(
            groups.sizes.tolist(), planned.wanted.tolist(), more, planned.given_up.tolist(), strict=True
        )
    ]


async def hold(ledger: Ledger, account: Account, wishes: Sequence[Wish], worth: Worth) -> dict[int, int]:
    """Reserve what the groups of a batch wish for; return the grant of each, by its place in the plan."""
    batches: dict[Terms, list[Wish]] = {}
    for wish in wishes:
        batches.setdefault((-1 if wish.step is None else wish.step, wish.lease_s), []).append(wish)
    granted: dict[int, int] = {}
    for (_, lease_s), batch in sorted(batches.items(), key=operator.itemgetter(0)):
        asks = [Ask(wish.reservation, wish.rollouts, wish.step, wish.policy, wish.extra) for wish in batch]
        answers = await ledger.reserve(account, asks, lease_s, _by_worth(worth, batch))
        granted |= {wish.index: answer.rollouts for wish, answer in zip(batch, answers, strict=True)}
    return granted


def _by_worth(worth: Worth, batch: Sequence[Wish]) -> Share:
    places = np.array([wish.index for wish in batch], dtype=np.int64)
    wanted = np.array([wish.rollouts for wish in batch], dtype=np.int64)
    curves = worth.take(places)
    return lambda left: allocation.share(curves, wanted, left).tolist()


def run_down(run: RunRecord, record: GroupRecord) -> bool:
    """Whether an observed group's lease is renewed: not before an eighth of it is gone, as most reports come in time."""
    return record.held_until - run.moment < record.lease_s * (1.0 - SPENT_BEFORE_RENEWAL)


async def renew(ledger: Ledger, account: Account, records: Sequence[GroupRecord]) -> int:
    """Renew the leases of these groups, each for as long as it was opened for; return how many were held."""
    by_lease: dict[float, list[str]] = {}
    for record in records:
        by_lease.setdefault(record.lease_s, []).extend(reservation_ids(account.run, record.key, len(record.grants)))
    return sum([await ledger.renew(account, lease_s, ids) for lease_s, ids in by_lease.items()])


def _reason(size: int, more: int, k_max: int, *, priced: bool) -> Reason:
    if more:
        return "worth_above_price" if size else "first_wave"
    if size >= k_max:
        return "k_max"
    return "worth_below_price" if priced else "rule_met"
