"""The pure ledger against a model that is written differently, under every order of commands that Hypothesis finds.

The model keeps plain dictionaries and recomputes everything from them; the ledger keeps counters and moves them. After
each step the two must agree, the counters must equal the sum of all entries, and no lease may have ended early.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rollout_budget.errors import Conflict
from rollout_budget.ledger import core
from rollout_budget.ledger.base import Account, Ask, Reservation, Settlement, Share
from rollout_budget.ledger.books import Books, Entry, day_of
from rollout_budget.wire import RunLimits, TeamLimits

RUNS = [Account("team", "first"), Account("team", "second"), Account("neighbour", "first")]
DAY_S = 86_400.0
START_S = 1_790_000_000.0

accounts = st.sampled_from(RUNS)
limits = st.none() | st.integers(0, 30)
units = st.none() | st.integers(0, 90)
modes = st.sampled_from(["enforce", "enforce", "shadow"])
run_limits = st.builds(
    RunLimits,
    rollouts=limits,
    rollouts_per_step=limits,
    tokens=units,
    tokens_per_step=units,
    tokens_per_rollout=st.none() | st.integers(1, 4),
    mode=modes,
)
team_limits = st.builds(
    TeamLimits,
    rollouts=limits,
    rollouts_per_day=limits,
    rollouts_per_month=limits,
    tokens=units,
    tokens_per_day=units,
    tokens_per_month=units,
    mode=modes,
)
policies = st.sampled_from(["p", "q"])
steps = st.none() | st.integers(0, 2)
batches = st.lists(st.integers(1, 12), min_size=1, max_size=4)
leases = st.sampled_from([10.0, 100.0, DAY_S])


@dataclass(slots=True)
class Held:
    """What the model knows of one ask."""

    account: Account
    asked: int
    rollouts: int
    step: int | None
    day: str
    ends: float
    state: Literal["reserved", "committed", "released", "expired", "refused"]
    used: int = 0
    policy: str = ""
    each: int = 0
    tokens: int = 0


class LedgerMachine(RuleBasedStateMachine):
    """Commands in any order, time moving between them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START_S
        self.books = Books()
        self.entries: list[Entry] = []
        self.held: dict[tuple[str, str], Held] = {}
        self.overage: list[tuple[Account, str, int | None, int, int]] = []
        self.shadowed: dict[Account, int] = dict.fromkeys(RUNS, 0)
        self.run_limits: dict[Account, RunLimits] = {}
        self.team_limits: dict[str, TeamLimits] = {"team": TeamLimits(), "neighbour": TeamLimits()}
        self.next_id = 0

    # What the model says.

    def charged(self, account: Account, *, day: str = "", step: int | None = None) -> tuple[int, int]:
        """Sum the rollouts and tokens that count against a limit over everything known; a `day` may be a month."""
        found, tokens = 0, 0
        for item in self.held.values():
            if _within(item.account, account) and item.day.startswith(day) and step in {None, item.step}:
                found += item.rollouts if item.state == "reserved" else item.used
                tokens += item.rollouts * item.each if item.state == "reserved" else item.tokens
        for where, when, at, count, beyond in self.overage:
            if _within(where, account) and when.startswith(day) and step in {None, at}:
                found += count
                tokens += beyond
        return found, tokens

    def room(self, account: Account, step: int | None, *modes: str) -> int | None:
        """Recompute what is left in rollouts under every limit of these modes; of all without any."""
        team, day = Account(account.team, ""), day_of(self.now)
        most, own = self.team_limits[account.team], self.run_limits[account]
        of_team = [
            (most.rollouts, most.tokens, self.charged(team)),
            (most.rollouts_per_day, most.tokens_per_day, self.charged(team, day=day)),
            (most.rollouts_per_month, most.tokens_per_month, self.charged(team, day=day[:7])),
        ]
        of_run = [(own.rollouts, own.tokens, self.charged(account))]
        if step is not None:
            of_run.append((own.rollouts_per_step, own.tokens_per_step, self.charged(account, step=step)))
        left = []
        for mode, bounds in ((most.mode, of_team), (own.mode, of_run)):
            for rollouts, tokens, (used, used_tokens) in bounds if mode in (modes or (mode,)) else []:
                if rollouts is not None:
                    left.append(rollouts - used)
                if tokens is not None and own.tokens_per_rollout:
                    left.append((tokens - used_tokens) // own.tokens_per_rollout)
                elif tokens is not None and used_tokens >= tokens:
                    left.append(0)
        return min(left, default=None)

    def expire(self, account: Account | None) -> int:
        """Give back what is due in a run, in a team (no run named) or everywhere."""
        given = 0
        for item in self.held.values():
            if (
                item.state == "reserved"
                and item.ends <= self.now
                and (account is None or _within(item.account, account))
            ):
                item.state = "expired"
                given += item.rollouts
        return given

    def take(self, step: core.Step[object]) -> None:
        """Move on to the next books."""
        self.books = step.books
        self.entries += step.entries

    # Commands.

    @initialize(first=run_limits, second=run_limits, other=run_limits)
    def open(self, first: RunLimits, second: RunLimits, other: RunLimits) -> None:
        for account, chosen in zip(RUNS, (first, second, other), strict=True):
            self.set_run_limits(account, chosen)

    @rule(account=accounts, chosen=run_limits)
    def set_run_limits(self, account: Account, chosen: RunLimits) -> None:
        self.books = core.open_account(self.books, account, chosen)
        self.run_limits[account] = chosen

    @rule(team=st.sampled_from(["team", "neighbour"]), chosen=team_limits)
    def set_team_limits(self, team: str, chosen: TeamLimits) -> None:
        self.books = core.set_team_limits(self.books, team, chosen)
        self.team_limits[team] = chosen

    @rule(seconds=st.sampled_from([1.0, 9.0, 10.0, 90.0, DAY_S, 31 * DAY_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(account=accounts, sizes=batches, step=steps, lease_s=leases, policy=policies)
    def reserve(self, account: Account, sizes: list[int], step: int | None, lease_s: float, policy: str) -> None:
        """G1: everything if it fits once what is due is given back, else exactly what is left; shadow mode only counts."""
        asks = [Ask(f"id{self.next_id + place}", size, step, policy) for place, size in enumerate(sizes)]
        self.next_id += len(asks)
        room = self.room(account, step)
        if room is not None and room < sum(sizes):
            self.expire(Account(account.team, ""))
        room, unseen = self.room(account, step, "enforce"), self.room(account, step, "shadow")
        taken = core.reserve(self.books, account, asks, lease_s, _first_come(sizes), now=self.now)
        self.take(taken)
        granted = sum(item.rollouts for item in taken.answer)
        assert granted == (sum(sizes) if room is None else min(sum(sizes), max(room, 0)))
        beyond = 0 if unseen is None else granted - min(granted, max(unseen, 0))
        assert sum(line.rollouts for line in taken.entries if line.kind == "shadow") == beyond
        self.shadowed[account] += beyond
        each = self.run_limits[account].tokens_per_rollout or 0
        for ask, item in zip(asks, taken.answer, strict=True):
            state: Literal["reserved", "refused"] = "reserved" if item.rollouts else "refused"
            self.held[account.team, ask.id] = Held(
                account,
                ask.rollouts,
                item.rollouts,
                step,
                day_of(self.now),
                self.now + lease_s,
                state,
                policy=policy,
                each=each,
            )

    @precondition(lambda self: self.held)
    @rule(data=st.data(), lease_s=leases)
    def reserve_again(self, data: st.DataObject, lease_s: float) -> None:
        """G3, G5: the answer of an id is final, and repeating it changes nothing at all."""
        team, key = data.draw(st.sampled_from(sorted(self.held)))
        item = self.held[team, key]
        again = core.reserve(
            self.books,
            item.account,
            [Ask(key, item.asked, item.step)],
            lease_s,
            _first_come([item.asked]),
            now=self.now,
        )
        assert again.entries == ()
        assert again.answer[0].rollouts == item.rollouts
        assert again.answer[0].state == item.state
        self.take(again)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), change=st.sampled_from(["rollouts", "step", "run"]))
    def reserve_otherwise(self, data: st.DataObject, change: str) -> None:
        """G4: the same id with another body is refused and has no effect."""
        team, key = data.draw(st.sampled_from(sorted(self.held)))
        item = self.held[team, key]
        siblings = [run for run in RUNS if run.team == team and run != item.account]
        account = siblings[0] if change == "run" and siblings else item.account
        other_step = 7 if change == "step" else item.step
        ask = Ask(key, item.asked + (change != "step" and account == item.account), other_step)
        with pytest.raises(Conflict):
            core.reserve(self.books, account, [ask], 10.0, _first_come([ask.rollouts]), now=self.now)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), used=st.integers(0, 20), tokens=st.integers(0, 40))
    def settle(self, data: st.DataObject, used: int, tokens: int) -> None:
        """G6, G8: what is held resolves once, in order; the rest goes back; what goes beyond is overage."""
        account = data.draw(accounts)
        keys = sorted(key for (team, key), item in self.held.items() if item.account == account)
        chosen = data.draw(st.lists(st.sampled_from(keys), unique=True, max_size=3)) if keys else []
        settled = core.settle(self.books, account, [Settlement(tuple(chosen), used, tokens=tokens)], now=self.now)
        left, released, tokens_left = used, 0, tokens
        for key in chosen:
            item = self.held[account.team, key]
            if item.state == "reserved":
                item.used = min(left, item.rollouts)
                item.state = "committed" if item.used else "released"
                left -= item.used
                item.tokens = min(tokens_left, item.used * item.each)
                tokens_left -= item.tokens
                released += item.rollouts - item.used
        if left or tokens_left:
            last = self.held[account.team, chosen[-1]].step if chosen else None
            self.overage.append((account, day_of(self.now), last, left, tokens_left))
        declared = any(self.held[account.team, key].each for key in chosen)
        assert sum(line.tokens for line in settled.entries if line.kind == "overage") == tokens_left * declared
        line = settled.answer[0]
        assert (line.committed, line.released, line.overage) == (used - left, released, left)
        self.take(settled)

    @rule(account=accounts, lease_s=leases, everything=st.booleans())
    def renew(self, account: Account, lease_s: float, everything: bool) -> None:  # noqa: FBT001  drawn by Hypothesis
        """A lease moves to now plus its length and never forward; due or not, what is held is renewed."""
        ids = [key for (team, key), item in self.held.items() if team == account.team]
        renewed = core.renew(self.books, account, lease_s, None if everything else ids, now=self.now)
        mine = [item for item in self.held.values() if item.account == account and item.state == "reserved"]
        assert renewed.answer == len(mine)
        for item in mine:
            item.ends = max(item.ends, self.now + lease_s)
        self.take(renewed)

    @rule(account=st.none() | accounts)
    def sweep(self, account: Account | None) -> None:
        """G7: expiry takes what is due and nothing else."""
        swept = core.expire(self.books, account, now=self.now)
        assert swept.answer == self.expire(account)
        self.take(swept)

    # What always holds.

    @invariant()
    def g02_counters_are_the_sum_of_entries(self) -> None:
        audited = core.audit(self.books, self.entries)
        assert audited.answer == []
        assert audited.books.stopped == frozenset()

    @invariant()
    def reservations_are_as_the_model_says(self) -> None:
        for (team, key), item in self.held.items():
            found = core.reservation(self.books, team, key, now=self.now)
            left = max(item.ends - self.now, 0.0) if item.state == "reserved" else None
            assert found == Reservation(
                key,
                item.account,
                item.asked,
                item.rollouts,
                item.step,
                item.state,
                item.used,
                left,
                item.policy,
                item.each,
            )

    @invariant()
    def what_is_left_is_as_the_model_says(self) -> None:
        for account in self.run_limits:
            for step in (None, 0, 1, 2):
                assert core.available(self.books, account, step, now=self.now) == self.room(account, step, "enforce")

    @invariant()
    def every_granted_rollout_is_somewhere(self) -> None:
        for account in {*RUNS, *(Account(run.team, "") for run in RUNS)}:
            found = self.books.count(account)
            assert found.granted == found.reserved + found.committed + found.released + found.expired
            assert found.reserved == sum(
                item.rollouts
                for item in self.held.values()
                if _within(item.account, account) and item.state == "reserved"
            )
            asked = sum(item.asked for item in self.held.values() if _within(item.account, account))
            assert found.granted + found.refused == asked
            assert min(found) >= 0
            assert found.charged[:2] == self.charged(account)
            assert found.shadow_refused == sum(n for run, n in self.shadowed.items() if _within(run, account))

    @invariant()
    def no_limit_is_passed_by_what_was_declared(self) -> None:
        """G1 in every unit: what is charged is what was granted under the limits of its time, or was booked beyond."""
        for item in self.held.values():
            assert item.tokens <= item.rollouts * item.each

    @invariant()
    def policies_add_up(self) -> None:
        for account in RUNS:
            sums = {key: counts for key, counts in self.books.sums.items() if key.account == account}
            for (_, policy, day), counts in sums.items():
                booked = [item for item in self.held.values() if item.account == account and item.day == day]
                mine = [item for item in booked if item.policy == policy]
                assert counts.granted == sum(item.rollouts for item in mine)
                assert counts.committed == sum(item.used for item in mine)
                assert counts.tokens_reserved == sum(i.rollouts * i.each for i in mine if i.state == "reserved")
            whole = self.books.count(account)
            for name in ("granted", "overage", "tokens", "tokens_overage", "shadow_refused", "refused"):
                assert sum(getattr(counts, name) for counts in sums.values()) == getattr(whole, name)


def _within(account: Account, whole: Account) -> bool:
    return account == whole or (not whole.run and account.team == whole.team)


def _first_come(sizes: list[int]) -> Share:
    def share(left: int) -> list[int]:
        grants = []
        for size in sizes:
            grants.append(min(size, left))
            left -= grants[-1]
        return grants

    return share


def test_g01_to_g08_the_ledger_agrees_with_its_model() -> None:
    """No order of commands takes a grant over a limit, moves a counter off its entries or resolves an id twice."""
    run_state_machine_as_test(LedgerMachine, settings=settings(max_examples=60, stateful_step_count=25, deadline=None))
