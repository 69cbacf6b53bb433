"""The circuit breaker, on a clock that the test moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rollout_budget.client import Breaker


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    breaker = Breaker(threshold=3)
    for _ in range(2):
        breaker = breaker.failed(now=0.0)
        assert breaker.allows(now=0.0)
    assert not breaker.failed(now=0.0).allows(now=0.0)
    assert breaker.succeeded().failed(now=0.0).allows(now=0.0)


def test_one_probe_goes_out_when_it_is_due_and_no_other_before_its_verdict() -> None:
    breaker = Breaker(probe_after_s=2.0).failed(now=10.0)
    assert not breaker.allows(now=11.9)
    assert breaker.allows(now=12.0)
    assert not breaker.sent(now=12.0).allows(now=12.0)
    assert breaker.sent(now=12.0).succeeded().allows(now=12.0)


def test_a_probe_that_never_reports_does_not_block_for_ever() -> None:
    """A cancelled call gives no verdict."""
    breaker = Breaker(probe_after_s=2.0).failed(now=10.0).sent(now=12.0)
    assert breaker.allows(now=14.0)


def test_closed_it_does_not_count_calls() -> None:
    assert Breaker().sent(now=0.0) == Breaker()


def test_probes_come_twice_as_late_each_time_up_to_a_bound() -> None:
    breaker, now, waits = Breaker(probe_after_s=2.0, probe_after_max_s=10.0), 0.0, []
    for _ in range(5):
        breaker = breaker.failed(now)
        waits.append(breaker.probe_at - now)
        now = breaker.probe_at
    assert waits == [2.0, 4.0, 8.0, 10.0, 10.0]


def test_due_lets_the_next_call_out_at_once() -> None:
    assert Breaker().failed(now=5.0).due().allows(now=5.0)


@given(st.lists(st.booleans(), max_size=2000), st.integers(1, 5))
def test_it_is_open_exactly_when_the_last_so_many_failed(verdicts: list[bool], threshold: int) -> None:
    """And it never waits longer than its bound, however long the outage."""
    breaker = Breaker(threshold=threshold, probe_after_s=2.0, probe_after_max_s=60.0)
    for verdict in verdicts:
        breaker = breaker.succeeded() if verdict else breaker.failed(now=0.0)
    assert breaker.is_open == (len(verdicts) >= threshold and not any(verdicts[-threshold:]))
    assert breaker.probe_at <= 60.0
