"""The columns of `entries`, read alike whatever release wrote them, and what they add to counters and sums.

The effects of an entry are those of `rollout_budget.ledger.books`, as SQL: for the auditor, which recomputes all sums,
and for whoever lists the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Row, and_, case, cast, func, literal
from sqlalchemy.sql import functions

from rollout_budget.ledger.base import Account
from rollout_budget.ledger.books import EFFECTS, HOLDS, Counts, Entry
from rollout_budget.ledger.units import Amounts, seconds
from rollout_budget.wire import EntryKind
from services.allocator.database.tables import entries

POLICY: ColumnElement[str] = functions.coalesce(entries.c.policy, literal(""))
MILLISECONDS: ColumnElement[int] = functions.coalesce(
    entries.c.milliseconds, cast(func.round(entries.c.seconds * 1000), BigInteger)
)
_HELD_TOKENS: ColumnElement[int] = functions.coalesce(entries.c.held_tokens, literal(0))
_HELD_MILLISECONDS: ColumnElement[int] = functions.coalesce(entries.c.held_milliseconds, literal(0))
_LATER_WAVE = and_(entries.c.kind == "reserve", entries.c.reservation.not_like("%/0"))
_EXTRA = functions.coalesce(entries.c.extra, _LATER_WAVE)
"""Releases before this one wrote no mark: the last part of a reservation's id is its wave."""


def _only(kind: EntryKind, value: ColumnElement[int]) -> ColumnElement[int]:
    return case((entries.c.kind == kind, value), else_=0)


def _signed(signs: Mapping[EntryKind, int], value: ColumnElement[int]) -> ColumnElement[int]:
    return case(*((entries.c.kind == kind, value * sign) for kind, sign in signs.items()), else_=0)


def _moved(counter: str) -> ColumnElement[int]:
    signs = {kind: sign for kind, effects in EFFECTS.items() for name, sign in effects if name == counter}
    return _signed(signs, entries.c.rollouts)


_OTHERS: Mapping[str, ColumnElement[int]] = {
    "groups_closed": case((and_(entries.c.kind == "close", entries.c.reference > 0), 1), else_=0),
    "references": _only("close", entries.c.reference),
    "tokens": entries.c.tokens,
    "milliseconds": MILLISECONDS,
    "extra": case((_EXTRA, entries.c.rollouts), else_=0),
    "tokens_reserved": _signed(HOLDS, _HELD_TOKENS),
    "tokens_overage": _only("overage", entries.c.tokens),
    "milliseconds_reserved": _signed(HOLDS, _HELD_MILLISECONDS),
    "milliseconds_overage": _only("overage", MILLISECONDS),
}
ADDS: Mapping[str, ColumnElement[int]] = {
    name: _OTHERS[name] if name in _OTHERS else _moved(name) for name in Counts._fields
}
"""What an entry adds to each field of `Counts`."""


def row_of(line: Entry, moment: float) -> dict[str, Any]:
    """Return an entry as a row, which releases before this one read too."""
    return {
        "team": line.account.team,
        "run": line.account.run,
        "reservation": line.reservation,
        "kind": line.kind,
        "rollouts": line.rollouts,
        "step": line.step,
        "day": line.day,
        "reference": line.reference,
        "tokens": line.tokens,
        "seconds": seconds(line.milliseconds),
        "at_s": moment,
        "milliseconds": line.milliseconds,
        "held_tokens": line.held.tokens,
        "held_milliseconds": line.held.milliseconds,
        "policy": line.policy,
        "extra": line.extra,
    }


def as_entry(row: Row[Any]) -> Entry:
    """Return a row as an entry; one of an earlier release has no policy, and no mark of a later wave."""
    time = row.milliseconds if row.milliseconds is not None else round(row.seconds * 1000)
    held = Amounts(0, row.held_tokens or 0, row.held_milliseconds or 0)
    return Entry(
        Account(row.team, row.run),
        row.kind,
        row.reservation,
        row.rollouts,
        row.day,
        row.step,
        reference=row.reference,
        tokens=row.tokens,
        milliseconds=time,
        held=held,
        policy=row.policy or "",
        extra=row.kind == "reserve" and not row.reservation.endswith("/0") if row.extra is None else bool(row.extra),
    )
