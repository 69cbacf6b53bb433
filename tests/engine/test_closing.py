"""Settlement, evidence that is never lost, the end of a run."""

from __future__ import annotations

import pytest

from rollout_budget.engine import closing
from rollout_budget.errors import Conflict, InvalidInput, Unavailable
from rollout_budget.wire import CloseGroup, OpenGroup, Range, RunLimits, RunPatch
from tests.engine.world import RUN, TEAM, Desk, PowerCut


async def test_evidence_is_on_the_unit_scale_under_a_stable_id(desk: Desk) -> None:
    """Successes are the sum of outcomes mapped to [0, 1]; key and version are those of the opening."""
    await desk.start(outcome_range=Range(low=-1.0, high=1.0))
    await desk.open(OpenGroup(group_id="g", prompt_key="k", policy_version=3))
    await desk.observe(g=[1.0, -1.0, 0.5])
    await desk.close(g=4)
    assert await desk.engine.deliver_evidence() == 1
    (row,) = desk.priors.evidence.values()
    assert (row.key, row.version, row.successes, row.trials) == ("k", 3, 1.75, 3)


async def test_final_outcomes_take_the_place_of_observed_ones(desk: Desk) -> None:
    """A late verdict changes the evidence, not the settlement."""
    await desk.start()
    await desk.open("g")
    await desk.observe(g=[1.0, 0.0])
    await desk.close(CloseGroup(group_id="g", used=3, outcomes=[1.0, 1.0, 1.0]))
    await desk.engine.deliver_evidence()
    assert [(row.successes, row.trials) for row in desk.priors.evidence.values()] == [(3.0, 3)]


async def test_discarded_and_empty_groups_leave_no_evidence(desk: Desk) -> None:
    """Their rollouts are paid for all the same; neither counts as a closed group."""
    await desk.start()
    await desk.open("thrown", "empty")
    await desk.observe(thrown=[1.0, 0.0])
    await desk.close(CloseGroup(group_id="thrown", used=2, discard=True), CloseGroup(group_id="empty", used=0))
    assert await desk.waiting() == []
    usage = (await desk.engine.budget(TEAM)).usage
    assert (usage.committed, usage.groups_closed, usage.saved) == (2, 0, -2)


async def test_what_cannot_be_delivered_waits(desk: Desk) -> None:
    """Down for three deliveries, then back: everything arrives, once."""
    await desk.start()
    await desk.open("a", "b")
    await desk.observe(a=[1.0], b=[0.0])
    desk.priors.failure = Unavailable("down")
    for name in "ab":
        await desk.close(**{name: 1})
        assert await desk.engine.deliver_evidence() == 0
    assert await desk.waiting() == ["a", "b"]
    desk.priors.failure = None
    assert await desk.engine.deliver_evidence() == 2
    assert await desk.engine.deliver_evidence() == 0
    assert await desk.waiting() == []


async def test_a_long_queue_goes_batch_by_batch(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """One delivery empties the outbox, however much has waited."""
    monkeypatch.setattr(closing, "MAX_GROUPS", 2)
    names = list("abcde")
    await desk.start()
    await desk.open(*names)
    await desk.observe(**{name: [1.0] for name in names})
    await desk.close(**dict.fromkeys(names, 1))
    assert await desk.engine.deliver_evidence() == 5
    assert await desk.waiting() == []


async def test_one_policy_that_fails_does_not_hold_up_the_others(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence is handed over by policy; what fails stays, what succeeds goes, however much of it is older."""
    monkeypatch.setattr(closing, "MAX_GROUPS", 2)
    await desk.start()
    older = [OpenGroup(group_id=name, prompt_key="bad", policy="bad") for name in ("b0", "b1", "b2")]
    await desk.open(*older, OpenGroup(group_id="good", prompt_key="good", policy="good"))
    await desk.observe(b0=[1.0], b1=[1.0], b2=[1.0], good=[1.0])
    await desk.close(b0=1, b1=1, b2=1)
    await desk.close(good=1)
    add = desk.priors.add_evidence

    async def picky(_: object, team: str, policy: str, rows: object) -> None:
        if policy == "bad":
            raise Unavailable("not this one")
        await add(team, policy, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(type(desk.priors), "add_evidence", picky)
    assert await desk.engine.deliver_evidence() == 1
    assert await desk.waiting() == ["bad"] * 3


async def test_an_answer_that_was_lost_after_delivery_is_harmless(desk: Desk) -> None:
    """The outbox is emptied in a transaction that fails: the rows go again under their ids."""
    await desk.start()
    await desk.open("g")
    await desk.observe(g=[1.0])
    await desk.close(g=1)
    desk.store.faults = ["none", "before commit"]
    with pytest.raises(PowerCut):
        await desk.engine.deliver_evidence()
    assert await desk.engine.deliver_evidence() == 1
    assert len(desk.priors.evidence) == 1


async def test_an_impossible_close_settles_nothing_of_its_batch(desk: Desk) -> None:
    """More outcomes than rollouts: the group beside it stays open too."""
    await desk.start()
    await desk.open("a", "b")
    with pytest.raises(InvalidInput, match="'b'"):
        await desk.close(CloseGroup(group_id="a", used=1), CloseGroup(group_id="b", used=1, outcomes=[1.0, 1.0]))
    assert (await desk.engine.budget(TEAM)).usage.reserved == 8


async def test_a_finished_run_keeps_its_answers(desk: Desk) -> None:
    """A trainer that comes late with another count is no error: more is booked, less changes nothing."""
    await desk.start()
    await desk.open("g", "h")
    await desk.observe(g=[1.0, 0.0])
    await desk.close(h=3)
    await desk.engine.finish_run(TEAM, RUN)
    booked = {line.group_id: line.committed + line.overage for line in await desk.close(g=4, h=1)}
    assert booked == {"g": 4, "h": 3}
    assert await desk.waiting() == ["g"]
    assert await desk.in_balance()


async def test_groups_that_the_end_closes_shape_the_law_as_if_closed_before(desk: Desk) -> None:
    """Once: neither ending again nor a late close of the same group counts them anew."""
    other = Desk()
    for each in (desk, other):
        await each.start()
        await each.open("a", "b")
        await each.observe(a=[1.0, 0.0], b=[1.0, 1.0])
    await other.close(a=2, b=2)
    await desk.engine.finish_run(TEAM, RUN)
    taught = (await desk.run()).reliability
    assert taught.learned is not None
    assert taught.learned.groups == pytest.approx(2.0)
    assert taught == (await other.run()).reliability
    await desk.engine.finish_run(TEAM, RUN)
    await desk.close(a=2, b=3)
    assert (await desk.run()).reliability == taught


async def test_finishing_does_not_need_the_prior_source(desk: Desk) -> None:
    """What was observed waits in the outbox."""
    await desk.start()
    await desk.open("g")
    await desk.observe(g=[1.0])
    desk.priors.failure = Unavailable("down")
    assert (await desk.engine.finish_run(TEAM, RUN)).status == "finished"
    assert await desk.engine.deliver_evidence() == 0
    assert await desk.waiting() == ["g"]


async def test_a_patch_changes_what_it_names(desk: Desk) -> None:
    """Absent fields stay; a fingerprint of the declaration stays too."""
    await desk.start(price=0.5, limits={"rollouts": 9})
    patched = await desk.engine.patch_run(TEAM, RUN, RunPatch(price=0.25))
    assert (patched.spec.price, patched.spec.limits.rollouts) == (0.25, 9)
    assert (await desk.start(price=0.5, limits={"rollouts": 9})).spec.price == 0.25
    with pytest.raises(Conflict):
        await desk.start(price=0.25, limits={"rollouts": 9})


async def test_a_patch_replaces_limits_as_a_whole(desk: Desk) -> None:
    """A limit that the patch leaves out is lifted."""
    await desk.start(limits={"rollouts": 9, "rollouts_per_step": 4})
    patched = await desk.engine.patch_run(TEAM, RUN, RunPatch(limits=RunLimits(rollouts_per_step=5)))
    assert patched.spec.limits == RunLimits(rollouts_per_step=5)
