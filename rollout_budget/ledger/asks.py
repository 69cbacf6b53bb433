"""What an ask may be and what its answer is: the part of `reserve` that every ledger shares, whatever it stores in.

Pure. `core` and the SQL ledger differ in how they take rollouts from the counters; what they refuse, what a share may
give and what they write down is decided here, once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rollout_budget.errors import Conflict, InvalidInput
from rollout_budget.ledger.base import Account, Ask, Reservation, Share
from rollout_budget.ledger.books import Entry
from rollout_budget.ledger.units import Amounts, beside
from rollout_budget.wire import ReservationState


def require_lease(lease_s: float) -> None:
    """Refuse a lease that never ends or has ended already."""
    if not 0.0 < lease_s < math.inf:
        raise InvalidInput(f"a lease needs a finite time above 0 s, got {lease_s}")


def common_step(asks: Sequence[Ask]) -> int | None:
    """Return the step that all asks of a call name; refuse asks that do not fit one call."""
    if len({ask.id for ask in asks}) != len(asks):
        raise InvalidInput("a reservation id occurs twice in one call")
    if any(ask.rollouts < 1 for ask in asks):
        raise InvalidInput("an ask needs at least one rollout")
    steps = {ask.step for ask in asks}
    if len(steps) > 1:
        raise InvalidInput(f"the asks of one call name {len(steps)} different steps")
    return next(iter(steps), None)


def require_same(first: Reservation, account: Account, ask: Ask) -> None:
    """Refuse an ask whose id was answered before for another one (G4)."""
    if (first.account, first.asked, first.step) != (account, ask.rollouts, ask.step):
        raise Conflict(f"reservation {ask.id!r} was asked for with another body before")


def shared(asks: Sequence[Ask], fresh: Sequence[int], share: Share, left: int) -> list[int]:
    """Return what `share` gives each ask of what is left; refuse one that gives out too much."""
    grants = [int(grant) for grant in share(left)]
    if len(grants) != len(asks) or not all(0 <= grant <= ask.rollouts for grant, ask in zip(grants, asks, strict=True)):
        raise InvalidInput("a share gives each ask between nothing and what it asked for")
    if sum(grants[index] for index in fresh) > left:
        raise InvalidInput(f"a share gave out more than the {left} rollouts that are left")
    return grants


def answered(
    account: Account, grants: Mapping[Ask, int], day: str, each: Amounts, beyond: int
) -> tuple[list[Reservation], list[Entry]]:
    """Return the final answers to these asks, refusals included (G5), and the entries that record them.

    Args:
        account: who asked.
        grants: rollouts granted by ask.
        day: the UTC day they count on.
        each: what one rollout holds.
        beyond: rollouts granted that limits in shadow mode would have refused; written down on the last asks.
    """
    held: list[Reservation] = []
    entries: list[Entry] = []
    state: ReservationState
    shadowed = _from_the_last(list(grants.values()), beyond)
    for (ask, grant), refused in zip(grants.items(), shadowed, strict=True):
        state = "reserved" if grant else "refused"
        held.append(
            Reservation(
                ask.id,
                account,
                ask.rollouts,
                grant,
                ask.step,
                state,
                policy=ask.policy,
                tokens_each=each.tokens,
                milliseconds_each=each.milliseconds,
            )
        )
        place, policy = (day, ask.step), ask.policy
        if grant:
            on_hold = beside(each, grant)
            entries.append(
                Entry(account, "reserve", ask.id, grant, *place, held=on_hold, policy=policy, extra=ask.extra)
            )
        if grant < ask.rollouts:
            entries.append(Entry(account, "refuse", ask.id, ask.rollouts - grant, *place, policy=policy))
        if refused:
            entries.append(Entry(account, "shadow", ask.id, refused, *place, policy=policy))
    return held, entries


def _from_the_last(grants: Sequence[int], beyond: int) -> list[int]:
    """Return how many of `beyond` each grant bears, the last ones first."""
    shares = []
    for grant in reversed(grants):
        shares.append(min(grant, beyond))
        beyond -= shares[-1]
    return shares[::-1]
