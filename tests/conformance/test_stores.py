"""What every store does besides its ledger: runs, groups, the outbox, and transactions that vanish as a whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rollout_budget.engine.ports import Evidence, Store
from rollout_budget.engine.records import GroupKey, GroupRecord, RunRecord
from rollout_budget.errors import NotFound
from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability
from rollout_budget.wire import ClosedGroup, Decision, EvidenceRow, Ingredients, OpenedGroup, RunLimits, RunSpec


class PowerCut(Exception):
    """A transaction ends in the middle."""


LEARNED = Reliability().update(Groups.of([0.25, 0.5], [[1.0, 0.0, 1.0], [0.0]]))
RUN = RunRecord("team", RunSpec(run_id="run", policy="p", limits=RunLimits(rollouts=7)), LEARNED, fingerprint="f")
DECISION = Decision(
    group_id="g",
    action="more",
    more=2,
    reason="worth_above_price",
    baseline=0.1 + 0.2,
    weight=0.5,
    trusted=True,
    ingredients=Ingredients(prior=0.25, mean=0.5, k=2, strength=1.5, standard_error=None),
    baselines=[0.1, 0.2],
    advantages=[-0.1, 0.8],
)


def group(group_id: str = "g", attempt: int = 0) -> GroupRecord:
    """Return a group that was just opened."""
    opened = OpenedGroup(
        group_id=group_id,
        attempt=attempt,
        prior=0.3,
        standard_error=None,
        prior_source="prior_service",
        evidence_version=3,
        grant=4,
        reason="first_wave",
        lease_s=60.0,
    )
    return GroupRecord(
        key=GroupKey(group_id, attempt),
        fingerprint="print",
        prompt_key="prompt",
        policy="p",
        policy_version=5,
        step=9,
        prior=0.3,
        prior_error=None,
        prior_source="prior_service",
        evidence_version=3,
        grants=(4,),
        opened=opened,
        lease_s=60.0,
        predicted=0.4,
        degraded="why",
    )


def evidence(identity: str, trials: int = 2) -> Evidence:
    """Return a row that waits."""
    return Evidence(identity, "team", "p", EvidenceRow(id=identity, key="k", version=1, successes=1.5, trials=trials))


async def add_run(store: Store) -> None:
    """Store the run in a transaction of its own."""
    async with store.transaction() as transaction:
        await transaction.add_run(RUN)


async def test_a_run_comes_back_as_it_was_saved(store: Store) -> None:
    """Settings, what was learned, fingerprint: all of it, bit by bit."""
    await add_run(store)
    async with store.transaction() as transaction:
        assert await transaction.run("team", "run", lock=True) == RUN
        changed = replace(RUN, finished=True, spec=RUN.spec.model_copy(update={"price": 0.5}))
        await transaction.save_run(changed)
    async with store.transaction() as transaction:
        assert await transaction.run("team", "run") == changed


async def test_adding_a_run_again_returns_the_first(store: Store) -> None:
    """The id is the key; the second body is for the caller to judge."""
    await add_run(store)
    other = replace(RUN, spec=RUN.spec.model_copy(update={"policy": "q"}), fingerprint="other")
    async with store.transaction() as transaction:
        assert await transaction.add_run(other) == RUN


async def test_g14_a_run_of_another_team_is_not_found(store: Store) -> None:
    """The same answer as for a run that does not exist."""
    await add_run(store)
    for team, run_id in (("neighbour", "run"), ("team", "other")):
        with pytest.raises(NotFound):
            async with store.transaction() as transaction:
                await transaction.run(team, run_id)
    async with store.transaction() as transaction:
        assert await transaction.groups("neighbour", "run", [GroupKey("g", 0)]) == {}


async def test_a_group_comes_back_as_it_was_saved(store: Store) -> None:
    """At every stage: opened, observed, closed."""
    await add_run(store)
    opened = group()
    observed = replace(opened, outcomes=(1.0, 0.1 + 0.2), decision=DECISION, grants=(4, 0, 2), learned=True)
    closed = replace(observed, closed=ClosedGroup(group_id="g", committed=3, released=3, overage=0))
    for stage in (opened, observed, closed):
        async with store.transaction() as transaction:
            await transaction.save_groups("team", "run", [stage])
        async with store.transaction() as transaction:
            assert await transaction.groups("team", "run", [GroupKey("g", 0), GroupKey("x", 0)]) == {stage.key: stage}


async def test_attempts_are_groups_of_their_own(store: Store) -> None:
    """The latest is the highest attempt, in whatever order they were saved."""
    await add_run(store)
    async with store.transaction() as transaction:
        await transaction.save_groups("team", "run", [group(attempt=2), group(attempt=0), group("h", 1)])
        await transaction.save_groups("team", "run", [group(attempt=1)])
    async with store.transaction() as transaction:
        latest = await transaction.latest_groups("team", "run", ["g", "h", "unknown"])
        both = await transaction.groups("team", "run", [GroupKey("g", 0), GroupKey("g", 1)])
    assert {name: record.key.attempt for name, record in latest.items()} == {"g": 2, "h": 1}
    assert sorted(key.attempt for key in both) == [0, 1]


async def test_open_groups_are_those_not_closed(store: Store) -> None:
    """A run can be ended without its trainer."""
    await add_run(store)
    gone = replace(group("gone"), closed=ClosedGroup(group_id="gone", committed=4, released=0, overage=0))
    async with store.transaction() as transaction:
        await transaction.save_groups("team", "run", [group("a"), group("gone"), group("b")])
        await transaction.save_groups("team", "run", [gone])
    async with store.transaction() as transaction:
        assert sorted(record.key.group_id for record in await transaction.open_groups("team", "run")) == ["a", "b"]
        assert await transaction.open_groups("team", "other") == []


async def test_the_outbox_keeps_each_row_once_until_it_is_delivered(store: Store) -> None:
    """Oldest first, as many as asked for."""
    async with store.transaction() as transaction:
        await transaction.queue_evidence([evidence("b"), evidence("a")])
    async with store.transaction() as transaction:
        await transaction.queue_evidence([evidence("a", trials=9), evidence("c")])
    async with store.transaction() as transaction:
        assert await transaction.pending_evidence(2) == [evidence("b"), evidence("a")]
        assert await transaction.pending_evidence(2, without={("team", "other"), ("other", "p")}) != []
        assert await transaction.pending_evidence(2, without={evidence("b").owner}) == []
        await transaction.evidence_delivered(["b", "unknown"])
        assert await transaction.pending_evidence(9) == [evidence("a"), evidence("c")]


async def test_g09_a_transaction_that_raises_stores_nothing(store: Store) -> None:
    """Runs, groups and evidence vanish together."""
    await add_run(store)

    async def interrupted() -> None:
        async with store.transaction() as transaction:
            await transaction.save_run(replace(RUN, finished=True))
            await transaction.add_run(replace(RUN, spec=RUN.spec.model_copy(update={"run_id": "second"})))
            await transaction.save_groups("team", "run", [group()])
            await transaction.queue_evidence([evidence("a")])
            raise PowerCut

    with pytest.raises(PowerCut):
        await interrupted()
    async with store.transaction() as transaction:
        assert await transaction.run("team", "run") == RUN
        assert await transaction.open_groups("team", "run") == []
        assert await transaction.pending_evidence(9) == []
    with pytest.raises(NotFound):
        async with store.transaction() as transaction:
            await transaction.run("team", "second")
