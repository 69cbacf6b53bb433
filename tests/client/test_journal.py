"""What is told after an outage, in which order and in which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget.client import journal as journal_module
from rollout_budget.client.journal import Close, Declare, Finish, Journal, Key, Open, Recent, Step
from rollout_budget.errors import Conflict, InvalidInput, NotFound
from rollout_budget.wire import (
    CloseAnswer,
    ClosedGroup,
    CloseGroup,
    Decision,
    Ingredients,
    ObserveGroup,
    OpenedGroup,
    OpenGroup,
    OpenRequest,
    RunSpec,
)

SPEC = RunSpec(run_id="r", policy="p")


def opened(name: str, attempt: int = 0, grant: int = 4) -> OpenedGroup:
    return OpenedGroup(
        group_id=name,
        attempt=attempt,
        prior=0.5,
        standard_error=None,
        prior_source="running_mean",
        evidence_version=0,
        grant=grant,
        reason="first_wave",
        lease_s=60.0,
    )


def decision(name: str, more: int = 0) -> Decision:
    ingredients = Ingredients(prior=0.5, mean=None, k=0, strength=1.0, standard_error=None)
    return Decision(
        group_id=name,
        action="more" if more else "stop",
        more=more,
        reason="worth_above_price",
        baseline=0.5,
        weight=0.5,
        trusted=True,
        ingredients=ingredients,
        baselines=[],
        advantages=[],
    )


def journal_with(*names: str, known: bool, attempt: int = 0) -> Journal:
    """A journal whose run the service knows, with groups that it opened (`known`) or that were opened here."""
    journal = Journal()
    journal.declare(SPEC, known=True)
    open_in(journal, *names, known=known, attempt=attempt)
    return journal


def open_in(journal: Journal, *names: str, known: bool, attempt: int = 0, lease_s: float = 60.0) -> None:
    groups = [OpenGroup(group_id=name, attempt=attempt, prompt_key=name) for name in names]
    request = OpenRequest(groups=groups, lease_s=lease_s)
    journal.opened("r", request, [opened(name, attempt) for name in names], known=known)


def close_in(journal: Journal, *names: str, used: int = 4, attempt: int = 0) -> None:
    journal.close("r", [CloseGroup(group_id=name, attempt=attempt, used=used) for name in names])


def answer(step: Step) -> object:
    """What a service with an empty ledger would say."""
    if isinstance(step, Close):
        groups = [
            ClosedGroup(group_id=g.group_id, committed=0, released=0, overage=g.used) for g in step.request.groups
        ]
        return CloseAnswer(groups=groups)
    return None


def told(journal: Journal) -> list[Step]:
    """Tell everything to a service that agrees, and return the steps."""
    steps = []
    while (step := journal.next()) is not None:
        steps.append(step)
        journal.done(step, answer(step))
    return steps


def test_a_run_is_told_in_order() -> None:
    journal = Journal()
    journal.declare(SPEC, known=False)
    open_in(journal, "g", known=False)
    close_in(journal, "g")
    journal.run("r").finishing = True
    assert [type(step) for step in told(journal)] == [Declare, Open, Close, Finish]
    assert journal.unreported == 0


def test_a_group_that_the_service_opened_is_only_closed() -> None:
    journal = journal_with("g", known=True)
    close_in(journal, "g")
    assert [type(step) for step in told(journal)] == [Close]


def test_a_group_still_drawn_from_is_not_told() -> None:
    """It may yet be closed with more rollouts, and a close is final."""
    journal = journal_with("g", known=False)
    assert journal.next() is None


def test_a_group_of_another_process_counts_as_known() -> None:
    journal = Journal()
    journal.declare(SPEC, known=True)
    close_in(journal, "stranger")
    assert [type(step) for step in told(journal)] == [Close]


def test_what_is_opened_again_is_opened_with_the_same_words() -> None:
    """Another body under the same id would be refused if the first delivery did arrive; leases are part of it."""
    journal = journal_with("a", known=False)
    open_in(journal, "b", known=False, lease_s=7.0)
    close_in(journal, "a", "b")
    requests = [step.request for step in told(journal) if isinstance(step, Open)]
    assert [(request.groups[0].prompt_key, request.lease_s) for request in requests] == [("a", 60.0), ("b", 7.0)]


def test_outcomes_that_were_not_told_go_with_the_close() -> None:
    journal = journal_with("g", known=True)
    journal.observed("r", [ObserveGroup(group_id="g", outcomes=[1.0, 0.0])], [decision("g")], told=False)
    close_in(journal, "g", used=2)
    step = journal.next()
    assert isinstance(step, Close)
    assert step.request.groups[0].outcomes == [1.0, 0.0]


def test_outcomes_that_were_told_do_not() -> None:
    journal = journal_with("g", known=True)
    journal.observed("r", [ObserveGroup(group_id="g", outcomes=[1.0, 0.0])], [decision("g")], told=True)
    close_in(journal, "g", used=2)
    step = journal.next()
    assert isinstance(step, Close)
    assert step.request.groups[0].outcomes is None


def test_the_caller_s_own_final_outcomes_stand() -> None:
    journal = journal_with("g", known=True)
    journal.observed("r", [ObserveGroup(group_id="g", outcomes=[1.0, 0.0])], [decision("g")], told=False)
    journal.close("r", [CloseGroup(group_id="g", used=2, outcomes=[0.0])])
    step = journal.next()
    assert isinstance(step, Close)
    assert step.request.groups[0].outcomes == [0.0]


def test_a_close_written_twice_is_told_once() -> None:
    """Before it was answered, and after."""
    journal = journal_with("g", known=True)
    close_in(journal, "g")
    close_in(journal, "g")
    assert len(told(journal)) == 1
    close_in(journal, "g")
    assert journal.next() is None
    assert journal.run("r").settled(Key("g", 0)).overage == 4


@pytest.mark.parametrize("answered", [False, True])
def test_a_close_with_another_count_is_a_conflict(*, answered: bool) -> None:
    journal = journal_with("g", known=True)
    close_in(journal, "g", used=4)
    if answered:
        told(journal)
    with pytest.raises(Conflict):
        close_in(journal, "g", used=5)


@pytest.mark.parametrize("outcomes", [[1.0, 1.0, 1.0], [2.0]])
def test_an_impossible_close_is_refused_before_it_is_written(outcomes: list[float]) -> None:
    """More outcomes than rollouts, or one outside the range: the whole request is as if it had not been made."""
    journal = journal_with("good", "bad", known=True)
    groups = [CloseGroup(group_id="good", used=2), CloseGroup(group_id="bad", used=2, outcomes=outcomes)]
    with pytest.raises(InvalidInput):
        journal.close("r", groups)
    assert journal.next() is None


def test_another_body_under_the_same_id_is_a_conflict() -> None:
    journal = journal_with("g", known=False)
    with pytest.raises(Conflict):
        journal.run("r").was_opened(OpenGroup(group_id="g", prompt_key="other"))
    with pytest.raises(Conflict):
        journal.declare(SPEC.model_copy(update={"policy": "q"}), known=False)


def test_an_undeclared_run_is_the_caller_s_mistake() -> None:
    with pytest.raises(InvalidInput, match="create_run"):
        Journal().run("r")


def test_attempts_of_one_group_go_one_after_the_other() -> None:
    """A request must not name a group twice."""
    journal = journal_with("g", known=False)
    open_in(journal, "g", known=False, attempt=1)
    close_in(journal, "g")
    close_in(journal, "g", attempt=1)
    assert [type(step) for step in told(journal)] == [Open, Open, Close, Close]


def test_an_ended_run_closes_what_was_only_decided_here() -> None:
    """The service settles by itself what it has seen; what it has not seen would be lost."""
    journal = journal_with("here", known=False)
    open_in(journal, "there", known=True)
    seen = [ObserveGroup(group_id=name, outcomes=[1.0, 0.0, 1.0]) for name in ("here", "there")]
    journal.observed("r", seen[:1], [decision("here")], told=False)
    journal.observed("r", seen[1:], [decision("there")], told=True)
    journal.finish("r")
    closes = [step.request.groups for step in told(journal) if isinstance(step, Close)]
    assert [[(group.group_id, group.used) for group in groups] for groups in closes] == [[("here", 3)]]


def test_a_forecast_tells_committed_from_overage() -> None:
    """Two waves of 4 are held; 10 were drawn."""
    journal = journal_with("g", known=True)
    seen = ObserveGroup(group_id="g", outcomes=[1.0] * 4)
    journal.observed("r", [seen], [decision("g", more=4)], told=True)
    close_in(journal, "g", used=10)
    settled = journal.run("r").settled(Key("g", 0))
    assert (settled.committed, settled.released, settled.overage) == (8, 0, 2)


def test_recent_values_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "RECENT", 2)
    recent: Recent[str, int] = Recent()
    recent.update({"a": 1, "b": 2})
    recent["a"] = 3
    recent["c"] = 4
    assert dict(recent) == {"a": 3, "c": 4}


@given(size=st.integers(1, 40), refused=st.sets(st.integers(0, 39)), known=st.booleans())
def test_what_is_refused_stands_alone_and_all_else_is_told(*, size: int, refused: set[int], known: bool) -> None:
    """Whatever the service refuses, every other group is told once, in a number of steps near the least."""
    names = [f"g{i}" for i in range(size)]
    poison = {f"g{i}" for i in refused if i < size}
    journal = journal_with(*names, known=known)
    close_in(journal, *names)
    closed, aside, steps = [], [], 0
    while (step := journal.next()) is not None:
        assert isinstance(step, (Open, Close))
        steps += 1
        batch = [group.group_id for group in step.request.groups]
        if poison & set(batch):
            if journal.refuse(step, NotFound("never opened")):
                aside += batch
        else:
            journal.done(step, answer(step))
            closed += batch if isinstance(step, Close) else []
    assert sorted(closed) == sorted(set(names) - poison)
    assert sorted(aside) == sorted(poison)
    assert set(journal.run("r").refused) == {Key(name, 0) for name in poison}
    assert journal.unreported == 0
    assert steps <= 2 + (len(poison) + 1) * 2 * (size.bit_length() + 1)
