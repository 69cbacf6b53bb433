"""Requests lost, doubled, late and out of order; transactions cut off before and after they commit (G3, G9, G10)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from rollout_budget.client.local import run_now
from rollout_budget.errors import RolloutBudgetError, Unavailable
from rollout_budget.wire import RunLimits
from tests.engine.world import RUN, TEAM, Desk, PowerCut

FIRST = {"g": [1.0, 0.0, 1.0, 0.0], "h": [0.0] * 4}
SECOND = {name: [*values, 1.0, 1.0] for name, values in FIRST.items()}
USED = {name: len(values) for name, values in SECOND.items()}

Request = Callable[[Desk], Awaitable[object]]
REQUESTS: dict[str, Request] = {
    "declare": lambda desk: desk.start(limits=RunLimits(rollouts=14)),
    "open": lambda desk: desk.open("g", "h"),
    "first": lambda desk: desk.observe(**FIRST),
    "second": lambda desk: desk.observe(**SECOND),
    "close": lambda desk: desk.close(**USED),
    "finish": lambda desk: desk.engine.finish_run(TEAM, RUN),
}
"""A group's whole life; the order is the one in which a trainer sends it."""


async def attempt(desk: Desk, name: str) -> object:
    """Send a request; a refusal is an answer too."""
    try:
        return await REQUESTS[name](desk)
    except RolloutBudgetError as error:
        return type(error)


async def insist(desk: Desk, name: str) -> object:
    """Send a request until it is answered."""
    while True:
        try:
            return await attempt(desk, name)
        except PowerCut:
            continue


@given(
    schedule=st.lists(st.sampled_from(sorted(REQUESTS)), max_size=20),
    down=st.lists(st.booleans(), min_size=20, max_size=20),
)
@settings(max_examples=150, deadline=None)
def test_g03_any_schedule_of_duplicates_keeps_the_books(schedule: list[str], down: list[bool]) -> None:
    """Whatever comes when, with the prior source up or down: in balance, each group settled once, as was used."""
    run_now(_any_schedule(schedule, down))


async def _any_schedule(schedule: list[str], down: list[bool]) -> None:
    desk = Desk()
    closed: object = None
    for name, failing in zip(schedule, down, strict=False):
        desk.priors.failure = Unavailable("down") if failing else None
        answer = await attempt(desk, name)
        if name == "close" and isinstance(answer, list):
            closed = closed or answer
            assert answer == closed
        assert await desk.in_balance()
        usage = (await desk.engine.budget(TEAM)).usage
        assert usage.reserved + usage.committed <= 14
        assert usage.groups_closed <= 2
    if closed:
        usage = (await desk.engine.budget(TEAM)).usage
        assert usage.reserved == 0
        assert usage.committed + usage.overage in {0, sum(USED.values()), sum(map(len, FIRST.values()))}


@given(copies=st.lists(st.integers(1, 5), min_size=6, max_size=6), echoes=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_g03_duplicates_change_no_answer(copies: list[int], echoes: object) -> None:
    """Each request one to five times, with echoes of earlier ones in between: the answers of an orderly run."""
    run_now(_echoing(copies, echoes))


async def _echoing(copies: list[int], echoes: object) -> None:
    orderly, noisy = Desk(), Desk()
    sent: list[str] = []
    for name, times in zip(REQUESTS, copies, strict=True):
        expected = await attempt(orderly, name)
        sent.append(name)
        for _ in range(times):
            assert await attempt(noisy, name) == expected
            await attempt(noisy, echoes.choice(sent))  # type: ignore[attr-defined]  # a random.Random
    assert await noisy.engine.budget(TEAM) == await orderly.engine.budget(TEAM)
    assert (await noisy.run()).reliability == (await orderly.run()).reliability
    assert await noisy.waiting() == await orderly.waiting()


faults = st.lists(st.sampled_from(["none", "before commit", "after commit"]), max_size=24)


@given(faults=faults)
@settings(max_examples=150, deadline=None)
def test_g09_g10_lost_transactions_and_lost_answers_are_repeated_safely(faults: list[str]) -> None:
    """Cut off anywhere and sent again until it is answered: the same answers and the same books as undisturbed."""
    run_now(_interrupted(faults))


async def _interrupted(faults: list[str]) -> None:
    orderly, cut = Desk(), Desk()
    cut.store.faults = faults
    for name in REQUESTS:
        expected = await attempt(orderly, name)
        answer = await insist(cut, name)
        assert answer == expected
    cut.store.faults = []
    assert await cut.in_balance()
    assert await cut.engine.budget(TEAM) == await orderly.engine.budget(TEAM)
    assert await cut.waiting() == await orderly.waiting()
