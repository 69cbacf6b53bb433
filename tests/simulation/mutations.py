"""Rules taken out on purpose, to show that the simulation would notice. For tests and `--mutate` alone.

Each mutation is a mistake that somebody could make, in the code that is simulated; it never touches the simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from typing import Any
from unittest import mock

from rollout_budget.client._http import Http
from rollout_budget.client.journal import Close, Step
from rollout_budget.client.resilient import ResilientAllocator
from rollout_budget.engine import opening
from rollout_budget.errors import ServiceError
from rollout_budget.ledger import books, core
from rollout_budget.ledger.limits import enforced
from rollout_budget.ledger.memory import MemoryLedger
from rollout_budget.wire import CloseAnswer, ClosedGroup, OpenRequest

EARLY_S = 10.0


def early_expiry() -> AbstractContextManager[object]:
    """Leases end ten seconds before their time (G7)."""
    right = core._expire
    return mock.patch.object(core, "_expire", lambda *a, now, **k: right(*a, now=now + EARLY_S, **k))


def over_limit() -> AbstractContextManager[object]:
    """One rollout more is granted than is left (G1)."""
    right = enforced

    def wrong(*args: Any, **named: Any) -> int | None:
        left = right(*args, **named)
        return None if left is None else left + 1

    return mock.patch.object(core, "enforced", wrong)


def new_id_per_attempt() -> AbstractContextManager[object]:
    """A client that mints new ids whenever it tries again (G3)."""
    right, attempts = Http._send_once, count()

    async def wrong(http: Http, call: Any, *told: Any) -> Any:
        if isinstance(call.body, OpenRequest):
            groups = [
                group.model_copy(update={"group_id": f"{group.group_id}-{next(attempts)}"})
                for group in call.body.groups
            ]
            call = replace(call, body=call.body.model_copy(update={"groups": groups}))
        return await right(http, call, *told)

    return mock.patch.object(Http, "_send_once", wrong)


def half_transactions() -> AbstractContextManager[object]:
    """The ledger keeps what a transaction did that was cut off (G9)."""
    return mock.patch.object(MemoryLedger, "rollback", return_value=None)


def forgotten_close() -> AbstractContextManager[object]:
    """A close whose answer was lost counts as told (G10)."""
    right = ResilientAllocator._tell

    async def wrong(allocator: ResilientAllocator, step: Step) -> object:
        try:
            return await right(allocator, step)
        except ServiceError:
            if not isinstance(step, Close):
                raise
            lines = [
                ClosedGroup(group_id=g.group_id, committed=g.used, released=0, overage=0) for g in step.request.groups
            ]
            return CloseAnswer(groups=lines)

    return mock.patch.object(ResilientAllocator, "_tell", wrong)


def answered_anew() -> AbstractContextManager[object]:
    """A group that is opened again is opened anew (G3)."""
    return mock.patch.object(opening, "_fresh", lambda _run, prints, _records: list(prints))


def lopsided_counter() -> AbstractContextManager[object]:
    """What is released stays reserved; the ledger's own auditor adds up the same way and sees nothing (G2)."""
    effects = dict(books.EFFECTS) | {"release": (("released", 1),)}
    return mock.patch.object(books, "EFFECTS", effects)


def no_fallback() -> AbstractContextManager[object]:
    """A failure of the service reaches the trainer (G22)."""
    right = ResilientAllocator._ask

    async def wrong(allocator: ResilientAllocator, call: Any, **_: Any) -> Any:
        return await right(allocator, call, raising=ServiceError)

    return mock.patch.object(ResilientAllocator, "_ask", wrong)


MUTATIONS: Mapping[str, Callable[[], AbstractContextManager[object]]] = {
    "early-expiry": early_expiry,
    "over-limit": over_limit,
    "new-id-per-attempt": new_id_per_attempt,
    "half-transactions": half_transactions,
    "forgotten-close": forgotten_close,
    "answered-anew": answered_anew,
    "lopsided-counter": lopsided_counter,
    "no-fallback": no_fallback,
}
