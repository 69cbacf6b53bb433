"""Pacing of a run: where steps begin, what is left, what closed groups tell. All of it lies in the run's record.

A step begins with the first new group that bears a higher number than any before; its price holds for whatever is
decided until the next one begins, on every replica, as all calls take turns on the run's record. Repeated requests open
and close nothing new, so they count nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rollout_budget.decisions import Rules
from rollout_budget.engine.answers import groups_of
from rollout_budget.engine.ports import Transaction
from rollout_budget.engine.records import GroupKey, GroupRecord, RunRecord
from rollout_budget.ledger.base import Account, Selection
from rollout_budget.pacing import Horizon, Pacing, demand
from rollout_budget.wire import CloseGroup, OpenGroup


async def opened(transaction: Transaction, run: RunRecord, groups: Sequence[OpenGroup]) -> RunRecord:
    """Return the run, and store it, with these new groups counted; the price is set anew where they begin a step."""
    if run.spec.pacing is None:
        return run
    step = max(group.policy_version if group.step is None else group.step for group in groups)
    known = run.pacing or Pacing()
    if known.begins(step):
        usual = Rules.of(run.spec.model_copy(update={"price": None})).price
        known = known.begin(step, await _horizon(transaction, run), usual)
    counted = replace(run, pacing=known.opens(len(groups)))
    await transaction.save_run(counted)
    return counted


def closed(
    run: RunRecord,
    bodies: Mapping[GroupKey, CloseGroup],
    records: Mapping[GroupKey, GroupRecord],
    outcomes: Mapping[GroupKey, Sequence[float]],
) -> RunRecord:
    """Return the run taught what these groups, closed for the first time, would have drawn at other prices.

    A group without outcomes drew what it drew at any price. One of whose rollouts only some gave an outcome needs as
    many more rollouts per outcome at any price.
    """
    new = [key for key in bodies if records[key].closed is None]
    if run.spec.pacing is None or run.pacing is None or not new:
        return run
    heard = [key for key in new if outcomes[key]]
    told = groups_of(
        [records[key].prior for key in heard],
        [records[key].prior_error for key in heard],
        [outcomes[key] for key in heard],
    )
    drawn = sum(bodies[key].used for key in heard)
    lost = drawn / int(told.sizes.sum()) if heard else 1.0
    silent = sum(bodies[key].used for key in new) - drawn
    wished = demand(Rules.of(run.spec), told, run.reliability) * lost + silent
    return replace(run, pacing=run.pacing.closes(len(new), np.asarray(wished)))


async def _horizon(transaction: Transaction, run: RunRecord) -> Horizon | None:
    """Return what is left to spread; None where nothing limits the run."""
    settings, account = run.spec.pacing, Account(run.team, run.spec.run_id)
    if settings is None:
        return None
    if settings.budget is None:
        left = await transaction.ledger.available(account)
        return None if left is None else Horizon(settings.steps, left)
    rows = await transaction.ledger.usage(run.team, ("run",), Selection(run=run.spec.run_id))
    used = sum(row.counts.reserved + row.counts.committed + row.counts.overage for row in rows)
    return Horizon(settings.steps, settings.budget - used)
