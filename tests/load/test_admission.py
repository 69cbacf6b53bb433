"""The rules of admission, alone: time is a number here, and every run of these tests is the same."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.kit.admission import SWEEP_AT, UNIT_BYTES, Bucket, Gate, Limited, Limits, Ticket
from tests.load.report import quantile
from tests.load.schedule import poisson


def limits(**more: float) -> Limits:
    stated: dict[str, float] = {
        "requests_per_s": 1e9, "request_burst": 1e9, "bytes_per_s": 1e12, "byte_burst": 1e12,
        "units": 8, "team_units": 4, "queue": 16, "wait_s": 2.0, "strangers_per_s": 20.0,
    }  # fmt: skip
    return Limits(**{**stated, **more})  # type: ignore[arg-type]  # counts are whole numbers where it matters


def come(gate: Gate, team: str, size: int | None = 0, now: float = 0.0) -> Ticket:
    ticket, _ = gate.arrive(team, size, now)
    assert isinstance(ticket, Ticket)
    return ticket


@given(
    rate=st.floats(0.1, 1e3),
    burst=st.floats(1.0, 1e3),
    steps=st.lists(st.tuples(st.floats(0, 5), st.floats(1, 50)), max_size=80),
)
def test_g13_no_bucket_lets_more_through_than_its_rate_and_burst(
    rate: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    """From any request to any later one, whatever their sizes; and the wait that it states is the true one."""
    bucket, now, passed = Bucket(rate, burst, 0.0), 0.0, []
    for pause, amount in steps:
        now += pause
        wait_s = bucket.wait_s(now)
        if wait_s > 0.0:
            assert bucket.wait_s(now + 0.99 * wait_s) > 0.0 or wait_s < 1e-6
            now += 1.000001 * wait_s + 1e-9
            assert bucket.wait_s(now) <= 1e-6
        bucket.take(amount, now)
        passed.append((now, amount))
    for start in range(len(passed)):
        total = 0.0
        for end in range(start, len(passed)):
            total += passed[end][1]
            most = max(amount for _, amount in passed[start : end + 1])
            assert total <= burst + rate * (passed[end][0] - passed[start][0]) + most + 1e-3


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes, leaves, gives up and steps out in whatever order, the bounds hold and nobody is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.gate = Gate(limits(queue=4), self.now)
        self.tickets: list[Ticket] = []
        self.outside: list[Ticket] = []

    def of(self, state: str) -> list[Ticket]:
        return [ticket for ticket in self.tickets if ticket.state == state and ticket not in self.outside]

    @rule(team=st.sampled_from("abc"), size=st.sampled_from([None, 0, UNIT_BYTES, 100 * UNIT_BYTES]))
    def arrives(self, team: str, size: int | None) -> None:
        ticket = come(self.gate, team, size, self.now)
        assert 1 <= ticket.units <= 4
        self.tickets.append(ticket)

    @precondition(lambda self: self.of("working"))
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        started = self.gate.leave(data.draw(st.sampled_from(self.of("working"))))
        assert all(ticket.state == "working" for ticket in started)

    @precondition(lambda self: self.of("waiting"))
    @rule(data=st.data())
    def gives_up(self, data: st.DataObject) -> None:
        self.gate.give_up(data.draw(st.sampled_from(self.of("waiting"))))

    @precondition(lambda self: self.of("working"))
    @rule(data=st.data())
    def steps_out(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.of("working")))
        if self.gate.step_out(ticket) is not None:
            self.outside.append(ticket)

    @precondition(lambda self: self.outside)
    @rule()
    def steps_in(self) -> None:
        self.gate.step_in(self.outside.pop())

    @invariant()
    def counts_are_true(self) -> None:
        waiting = self.of("waiting")
        assert self.gate.waiting == len(waiting) <= 4
        assert self.gate.units == sum(ticket.units for ticket in self.of("working"))
        assert len(self.outside) <= 4

    @invariant()
    def nobody_waits_beside_an_empty_house(self) -> None:
        waiting, working = self.of("waiting"), self.of("working")
        assert not waiting or working


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_g13_one_request_goes_before_anothers_hundredth() -> None:
    """A team with a long line has no advantage over one that has just come."""
    gate = Gate(limits(units=1, team_units=1, queue=200), 0.0)
    working = come(gate, "loud")
    loud = [come(gate, "loud") for _ in range(100)]
    quiet = come(gate, "quiet")
    started = [gate.leave(working)[0]]
    while len(started) < 101:
        started += gate.leave(started[-1])
    assert started.index(quiet) <= 1
    assert [ticket for ticket in started if ticket.team == "loud"] == loud


def test_g13_large_requests_wait_longer_than_small_ones() -> None:
    """Turns are by work, not by count: four small requests of one team for each large one of another."""
    gate = Gate(limits(units=4, team_units=4, queue=200), 0.0)
    working = come(gate, "x", 3 * UNIT_BYTES)
    for _ in range(20):
        come(gate, "large", 3 * UNIT_BYTES)
    for _ in range(80):
        come(gate, "small")
    given: Counter[str] = Counter()
    running = gate.leave(working)
    while sum(given.values()) < 100:
        ticket = running.pop(0)
        given[ticket.team] += ticket.units
        running += gate.leave(ticket)
    assert abs(given["large"] - given["small"]) <= 8


def test_g13_a_full_line_sheds_the_loudest_and_keeps_the_quiet() -> None:
    """Whoever fills the line is the one who is turned away, though another came last."""
    gate = Gate(limits(units=1, team_units=1, queue=4), 0.0)
    come(gate, "loud")
    loud = [come(gate, "loud") for _ in range(4)]
    quiet, shed = gate.arrive("quiet", 0, 0.0)
    assert isinstance(quiet, Ticket)
    assert (quiet.state, shed) == ("waiting", [loud[-1]])
    assert come(gate, "loud").state == "shed"


def test_g13_a_team_never_has_more_than_its_share() -> None:
    """However much it sends, there is room for the next team at once."""
    gate = Gate(limits(units=8, team_units=4), 0.0)
    for size in (0, 10 * UNIT_BYTES, 0, 0, 0):
        come(gate, "loud", size)
    assert gate.units <= 4
    assert come(gate, "quiet", 3 * UNIT_BYTES).state == "working"


def test_g13_wrong_keys_are_limited_together_and_cost_no_team_anything() -> None:
    """A flood of them meets its own bucket; the teams' buckets and the line are as before."""
    gate = Gate(limits(strangers_per_s=2.0), 0.0)
    answers = [gate.stranger(0.001 * number) for number in range(1_000)]
    assert sum(answer is None for answer in answers) <= 10 * 2 + 2
    assert all(0 < answer.after_s <= 0.5 for answer in answers if isinstance(answer, Limited))
    assert come(gate, "team", now=1.0).state == "working"


def test_g16_teams_that_are_idle_are_forgotten() -> None:
    """However many names come by, memory holds those that are at work or owe something."""
    gate = Gate(limits(requests_per_s=10.0, request_burst=10.0), 0.0)
    stays = come(gate, "stays")
    for place in range(5 * SWEEP_AT):
        gate.leave(come(gate, f"team-{place}", now=float(place)))
    assert len(gate._teams) <= SWEEP_AT + 1
    gate.leave(stays)
    assert gate.units == 0


WORK_S = 0.010
"""Work of one request in virtual time: a house with one worker does a hundred a second."""


def latencies(quiet: list[float], loud: list[float]) -> list[float]:
    """Return the quiet team's latencies beside a loud one, in virtual time; both as sorted arrivals."""
    gate, place = Gate(limits(units=1, team_units=1, queue=256), 0.0), count()
    events: list[tuple[float, int, Ticket | str]] = [(at, next(place), "quiet") for at in quiet]
    events += [(at, next(place), "loud") for at in loud]
    heapq.heapify(events)
    found: list[float] = []
    while events:
        now, _, event = heapq.heappop(events)
        if isinstance(event, str):
            ticket = come(gate, event, now=now)
            started = [ticket] if ticket.state == "working" else []
            assert event == "loud" or ticket.state != "shed"
        else:
            if event.team == "quiet":
                found.append(now - event.since)
            started = gate.leave(event)
        for ticket in started:
            heapq.heappush(events, (now + WORK_S, next(place), ticket))
    return found


@pytest.mark.parametrize("factor", [10.0, 30.0])
def test_g13_a_neighbour_at_ten_times_the_load_moves_p99_by_less_than_a_fifth(factor: float) -> None:
    """Of a trainer that sends its next call when it has the last one's answer, against a neighbour at the same load.

    At thirty times the neighbour sends more than twice what the house can do.
    """
    chance = random.Random(7)  # noqa: S311  a schedule, not a secret
    trainer = [(step + 0.8 * chance.random()) / 8.0 for step in range(5_000)]
    calm, loud = (quantile(latencies(trainer, poisson(8.0 * times, 625.0, seed=2)), 0.99) for times in (1.0, factor))
    assert loud / calm < 1.2


@given(seed=st.integers(0, 1_000), rate=st.floats(1.0, 45.0), factor=st.floats(1.0, 40.0))
@settings(max_examples=60, deadline=None)
def test_g13_no_request_waits_longer_than_in_half_a_house_of_its_own(seed: int, rate: float, factor: float) -> None:
    """Bursts included: with two teams, each request is done as soon as by half the speed alone, and one work of each."""
    quiet = poisson(rate, 20.0, seed)
    shared = latencies(quiet, poisson(rate * factor, 20.0, seed + 1))
    free_at = 0.0
    for at, latency in zip(quiet, shared, strict=True):
        free_at = max(free_at, at) + 2 * WORK_S
        assert at + latency <= free_at + 2 * WORK_S + 1e-9
