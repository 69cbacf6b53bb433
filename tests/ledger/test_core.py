"""What only the pure core can show: purity, exact moments, counters that were tampered with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rollout_budget.errors import InvalidInput
from rollout_budget.ledger import core
from rollout_budget.ledger.base import Account, Ask, Discrepancy, Settlement
from rollout_budget.ledger.books import TOTAL, Books, Entry, Scope, day_of
from rollout_budget.ledger.memory import MemoryLedger, steady_clock
from rollout_budget.wire import MAX_ROLLOUTS, RunLimits, TeamLimits

RUN = Account("team", "run")
TEAM = Account("team", "")
NOW = 1_790_000_000.0


def everything(left: int) -> list[int]:
    """Share where nothing is short."""
    raise AssertionError(f"asked to share {left}")


def opened(limits: RunLimits | None = None) -> Books:
    """Return books with one run."""
    return core.open_account(Books(), RUN, limits or RunLimits())


def test_commands_leave_the_books_they_were_given() -> None:
    """Old books stay true: going back is keeping a reference."""
    empty = opened()
    held = core.reserve(empty, RUN, [Ask("a", 4)], 10.0, everything, now=NOW).books
    settled = core.settle(held, RUN, [Settlement(("a",), 3)], now=NOW).books
    assert [books.count(RUN).reserved for books in (empty, held, settled)] == [0, 4, 0]
    assert core.reservation(held, "team", "a", now=NOW).state == "reserved"
    assert core.settle(held, RUN, [Settlement(("a",), 1)], now=NOW).books.count(RUN).committed == 1


def test_g07_a_lease_ends_at_its_very_end() -> None:
    """Half a microsecond before it holds; at it, it is due."""
    held = core.reserve(opened(), RUN, [Ask("a", 4)], 10.0, everything, now=NOW).books
    assert core.expire(held, None, now=NOW + 10.0 - 5e-7).answer == 0
    assert core.expire(held, None, now=NOW + 10.0).answer == 4


def test_entries_tell_the_whole_story_in_order() -> None:
    """One line per change, on the day and step of the grant; overage and the close on those of the booking."""
    step = core.reserve(
        opened(RunLimits(rollouts=6)), RUN, [Ask("a", 4, 1), Ask("b", 4, 1)], 10.0, lambda _: [4, 2], now=NOW
    )
    later = NOW + 86_400.0
    done = core.settle(step.books, RUN, [Settlement(("a", "b"), 9, 16, 100, 1.5)], now=later)
    today, tomorrow = day_of(NOW), day_of(later)
    assert step.entries == (
        Entry(RUN, "reserve", "a", 4, today, 1),
        Entry(RUN, "reserve", "b", 2, today, 1),
        Entry(RUN, "refuse", "b", 2, today, 1),
    )
    assert done.entries == (
        Entry(RUN, "commit", "a", 4, today, 1),
        Entry(RUN, "commit", "b", 2, today, 1),
        Entry(RUN, "overage", "b", 3, tomorrow, 1),
        Entry(RUN, "close", "b", 0, tomorrow, 1, 16, 100, 1500),
    )


@pytest.mark.parametrize("account", [RUN, TEAM])
@pytest.mark.parametrize("field", ["granted", "reserved", "committed", "overage", "tokens"])
def test_g02_a_counter_that_is_off_stops_grants_until_it_is_mended(account: Account, field: str) -> None:
    """The audit names account, counter and both figures; nothing is granted; an audit that finds it right lifts it."""
    right = core.reserve(opened(), RUN, [Ask("a", 4)], 10.0, everything, now=NOW)
    counts = right.books.count(account)
    wrong = right.books.counts.updated({Scope(account, TOTAL): counts._replace(**{field: getattr(counts, field) + 1})})
    audited = core.audit(replace(right.books, counts=wrong), right.entries)
    truth = getattr(counts, field)
    assert audited.answer == [Discrepancy(account, f"total {field}", truth + 1, truth)]
    refused = core.reserve(audited.books, RUN, [Ask("b", 1)], 10.0, lambda left: [left], now=NOW)
    assert refused.answer[0].state == "refused"
    mended = core.audit(replace(audited.books, counts=right.books.counts), right.entries).books
    assert core.reserve(mended, RUN, [Ask("c", 1)], 10.0, everything, now=NOW).answer[0].rollouts == 1


def test_g02_a_lost_entry_is_found() -> None:
    """Counters without their entry differ in every scope that the entry counts in."""
    step = core.reserve(opened(), RUN, [Ask("a", 4, 2)], 10.0, everything, now=NOW)
    found = core.audit(step.books, ()).answer
    windows = {(item.account, item.counter.split()[0].partition(":")[0]) for item in found}
    assert windows == {(TEAM, "total"), (TEAM, "day"), (TEAM, "month"), (RUN, "total"), (RUN, "usage"), (RUN, "step")}


def test_a_stopped_run_leaves_its_siblings_alone() -> None:
    """A wrong run stops itself, a wrong team all its runs."""
    other = Account("team", "other")
    books = core.open_account(opened(), other, RunLimits())
    for stopped, expected in ((RUN, None), (TEAM, 0)):
        halted = replace(books, stopped=frozenset({stopped}))
        assert core.available(halted, other, None, now=NOW) == expected
        assert core.available(halted, RUN, None, now=NOW) == 0


def test_an_account_needs_a_team_and_a_run() -> None:
    """The empty run stands for the team itself."""
    for account in (Account("", "run"), Account("team", "")):
        with pytest.raises(InvalidInput):
            core.open_account(Books(), account, RunLimits())


def test_g16_tokens_saturate_where_json_readers_would_round() -> None:
    """Two groups with the largest count of tokens do not make an answer that cannot be sent."""
    closes = [Settlement((), 0, tokens=MAX_ROLLOUTS), Settlement((), 0, tokens=MAX_ROLLOUTS)]
    books = core.settle(opened(), RUN, closes, now=NOW).books
    assert core.budget(books, "team", now=NOW).usage.tokens == MAX_ROLLOUTS


def test_a_team_that_nobody_declared_has_no_limits_and_no_use() -> None:
    """Its key exists, its ledger does not yet."""
    found = core.budget(Books(), "new", now=NOW)
    assert (found.limits, found.available, found.usage.granted) == (TeamLimits(), None, 0)


async def test_a_ledger_rolled_back_forgets_entries_too() -> None:
    """Books and record go back together, so the audit still agrees."""
    ledger = MemoryLedger(lambda: NOW)
    await ledger.open_account(RUN, RunLimits())
    await ledger.reserve(RUN, [Ask("a", 4)], 10.0, everything)
    savepoint = ledger.savepoint()
    await ledger.settle(RUN, [Settlement(("a",), 4)])
    ledger.rollback(savepoint)
    assert await ledger.audit() == []
    assert (await ledger.reservation("team", "a")).state == "reserved"


def test_the_default_clock_never_runs_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone sets the wall clock back by a year: leases and days go on."""
    clock = steady_clock()
    before = clock()
    monkeypatch.setattr("time.time", lambda: before - 365 * 86_400.0)
    assert clock() >= before
