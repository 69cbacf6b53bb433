"""G11: only intervals matter, whatever a clock says."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rollout_budget.ledger import core
from rollout_budget.ledger.base import Account, Ask, Settlement, Share
from rollout_budget.ledger.books import Books
from rollout_budget.wire import RunLimits

RUN = Account("team", "first")
DAY_S = 86_400.0
START_S = 1_790_000_000.0

commands = st.lists(
    st.tuples(st.sampled_from(["reserve", "settle", "renew", "expire", "wait"]), st.integers(0, 9), st.integers(1, 6)),
    max_size=25,
)


@given(commands=commands, skew_days=st.integers(-3650, 3650))
@settings(max_examples=60, deadline=None)
def test_g11_only_intervals_matter(commands: list[tuple[str, int, int]], skew_days: int) -> None:
    """The same commands on a clock that is days or years off get the same answers."""
    assert _answers(commands, START_S) == _answers(commands, START_S + skew_days * DAY_S)


def _answers(commands: list[tuple[str, int, int]], now: float) -> list[object]:
    account, books = RUN, core.open_account(Books(), RUN, RunLimits(rollouts=20, rollouts_per_step=12))
    answers: list[object] = []
    known: list[str] = []
    for place, (command, which, count) in enumerate(commands):
        key = known[which % len(known)] if known else None
        if command == "reserve":
            known.append(f"id{place}")
            ask = Ask(known[-1], count, which % 2)
            taken = core.reserve(books, account, [ask], 16.0, _first_come(count), now=now)
            answers.append([(item.rollouts, item.state, item.expires_in_s) for item in taken.answer])
            books = taken.books
        elif command == "settle" and key is not None:
            settled = core.settle(books, account, [Settlement((key,), count)], now=now)
            answers.append(settled.answer)
            books = settled.books
        elif command in {"renew", "expire"}:
            moved = (
                core.renew(books, account, 8.0, None, now=now)
                if command == "renew"
                else core.expire(books, None, now=now)
            )
            answers.append(moved.answer)
            books = moved.books
        else:
            now += 4.0 * count
    return answers


def _first_come(count: int) -> Share:
    return lambda left: [min(count, left)]
