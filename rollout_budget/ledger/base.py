"""The ledger's port: what every ledger does, in memory, on SQLite and on PostgreSQL alike.

Words (see `docs/guarantees.md` for G1 to G21): an *ask* is a hold of some rollouts under an id that its caller minted;
a *reservation* is the ledger's final answer to it; a *settlement* says how many of some reservations were really used.
Accounts have two levels, team and run, always taken in that order. The rules are the pure state machine in `core`; an
implementation adds storage, a clock and atomicity, nothing else.

What every implementation agrees on, and the conformance suite holds it to:
- what counts against a limit is `reserved + committed + overage`: a rollout drawn beyond its grant was drawn;
- a rollout counts on the UTC day and month of its grant, overage and closed groups on those of their booking;
- tokens and GPU-seconds count as rollouts do where they were held: up to what the rollouts used had held, on the day and
  step of their grants. What goes beyond is overage if the group held any of that unit, and in either case counts on the
  day of its booking. What a settlement does not say is nothing. `units` states the rule of one limit;
- a limit in shadow mode refuses nothing; what it would have refused of a grant is written down, on its last asks;
- `refused` counts rollouts asked for and not granted, of partial grants too; a partly granted ask is `reserved`;
- a lease is due at its very end, not before; what is due is held until someone expires it, and may be renewed or settled;
- a settled reservation is `committed` if any of it was used, else `released`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rollout_budget.wire import (
    BudgetView,
    Dimension,
    EntryKind,
    EntryView,
    LimitUse,
    ReservationState,
    RunLimits,
    TeamLimits,
    UsageRow,
)

Share = Callable[[int], Sequence[int]]
"""Given how many rollouts are left, how many each ask gets: as many entries as asks, each between 0 and its ask, their
sum at most what is left. Called by the ledger only when the whole does not fit."""


@dataclass(frozen=True, slots=True)
class Account:
    """The two levels that a rollout is charged to."""

    team: str
    run: str


@dataclass(frozen=True, slots=True)
class Ask:
    """A hold of `rollouts >= 1` under `id`, unique within its team.

    The same id with another run, other `rollouts` or another `step`: `Conflict`. All asks of one call have one step.
    `policy` is whose usage it is, `extra` says that it comes after its group's first wave; neither limits anything.
    """

    id: str
    rollouts: int
    step: int | None = None
    policy: str = ""
    extra: bool = False


@dataclass(frozen=True, slots=True)
class Reservation:
    """The final answer to an ask. `rollouts` is what was granted, 0 when refused; `used` what was committed of it.

    `tokens_each` and `milliseconds_each` are what one of its rollouts holds, as its run declared when it was asked for.
    """

    id: str
    account: Account
    asked: int
    rollouts: int
    step: int | None
    state: ReservationState
    used: int = 0
    expires_in_s: float | None = None
    policy: str = ""
    tokens_each: int = 0
    milliseconds_each: int = 0


@dataclass(frozen=True, slots=True)
class Settlement:
    """How many rollouts were drawn under `reservations` (all of one group, in order of their waves).

    What was drawn beyond what is still held is booked as overage; the rest of what is held is released. `reference` is
    the fixed group size that savings are stated against, 0 where the group does not count as closed. `tokens` and
    `seconds` (kept to the millisecond) are what all its rollouts used; overage and close count for the policy of the
    last reservation.
    """

    reservations: tuple[str, ...]
    used: int
    reference: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Settled:
    """Where the rollouts of a settlement went; `committed + overage == used`."""

    committed: int
    released: int
    overage: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Which usage is asked for, and which of its rows: at most `limit`, from the first above `after` on.

    Attributes:
        run, policy: these alone; all if None.
        since, until: first and last UTC day, as `2026-11-22`; both count.
        after: the dimensions of a row, in the order asked for; empty for the first page.
        limit: rows at most; None for all.
    """

    run: str | None = None
    policy: str | None = None
    since: str | None = None
    until: str | None = None
    after: tuple[str, ...] = ()
    limit: int | None = None


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A counter that does not equal the sum of its entries (G2). Grants to that account stop until it is mended."""

    account: Account
    counter: str
    counted: int
    entries: int


class Ledger(Protocol):
    """All methods run inside the caller's transaction: what they did is undone together if it does not commit."""

    async def open_account(self, account: Account, limits: RunLimits) -> None:
        """Create a run's account under its team, or set its limits anew. A team is created without limits if new."""
        ...

    async def set_team_limits(self, team: str, limits: TeamLimits) -> None:
        """Set a team's limits; lower than what is used already is legal and stops new grants only."""
        ...

    async def reserve(self, account: Account, asks: Sequence[Ask], lease_s: float, share: Share) -> list[Reservation]:
        """Hold all asks, or what `share` makes of what is left; one reservation per ask, in their order.

        An id answered before is answered the same again, refusals included. Before anything is refused, what is due in
        this team is expired, then it is tried once more.

        Raises:
            Conflict: an id was used before with another ask; nothing was held for any of them.
            InvalidInput: an id occurs twice, an ask is below 1, or the asks name different steps; nothing was held.
            NotFound: the account was never opened.
        """
        ...

    async def settle(self, account: Account, settlements: Sequence[Settlement]) -> list[Settled]:
        """Commit, release and book overage; each reservation resolves once, later settlements find nothing held."""
        ...

    async def renew(self, account: Account, lease_s: float, ids: Sequence[str] | None = None) -> int:
        """Extend the leases of these reservations that are still held (all of the run's if None); return how many."""
        ...

    async def expire(self, account: Account | None = None) -> int:
        """Give back what is due, in one account or in all; return how many rollouts. Never early (G7)."""
        ...

    async def available(self, account: Account, step: int | None = None) -> int | None:
        """Rollouts left under every limit that refuses, negative after one was lowered; None without such limits.

        Under a limit of tokens or seconds as many as hold what is left of it, if the run declares what one holds.
        """
        ...

    def warnings(self) -> Sequence[LimitUse]:
        """Return the limits from their `warn_at` on, as the last `reserve` that held or refused something found them."""
        ...

    async def reservation(self, team: str, reservation_id: str) -> Reservation:
        """Return one reservation.

        Raises:
            NotFound: this team has none of that id.
        """
        ...

    async def budget(self, team: str) -> BudgetView:
        """Return a team's limits, counters and what is left."""
        ...

    async def usage(self, team: str | None, by: Sequence[Dimension], which: Selection = EVERYTHING) -> list[UsageRow]:
        """Return counts grouped by these dimensions, from sums that move with the entries; of all teams if None.

        Rows are in the order of their dimensions, character by character.
        """
        ...

    async def entries(
        self, team: str, kind: EntryKind | None = None, run: str | None = None, *, after: int = 0, limit: int = 100
    ) -> list[EntryView]:
        """Return lines of the record in the order in which they were written, from the first with an id above `after`.

        A page that was read once reads the same for ever: a team's lines are never changed and never put in between.
        """
        ...

    async def audit(self) -> list[Discrepancy]:
        """Recompute every counter and every sum of usage from the entries and return those that differ."""
        ...
