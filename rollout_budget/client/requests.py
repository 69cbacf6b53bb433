"""One name for everything that one call of a trainer sets off, from its own log to the ledger's.

Owns the id of the request that is under way in this task and the header that carries it. A call without a name gets one
(a random UUID); all its attempts, and all calls made inside `named`, bear the same. A service names what it serves by
the id it was sent, so that its own calls to others bear it too. Owns no log: who writes one asks `current`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

HEADER = "X-Request-Id"
"""The header by which most proxies and log collectors know a request."""


@dataclass(slots=True)
class Request:
    """What is under way by one name.

    Attributes:
        id: 1 to 64 characters of `A-Z a-z 0-9 . _ : -`; a service replaces any other.
        attempts: times that anything was sent by this name.
        failures: how many of these brought no good answer.
    """

    id: str
    attempts: int = 0
    failures: int = 0


_current: ContextVar[Request | None] = ContextVar("rollout_budget_request", default=None)


def new_id() -> str:
    """Return a fresh id."""
    return str(uuid.uuid4())


def current() -> Request | None:
    """Return what is under way in this task, None outside of any."""
    return _current.get()


@contextmanager
def named(request_id: str | None = None) -> Iterator[Request]:
    """Give everything that is sent in this block one name: this one, else that of a block around it, else a fresh one."""
    around = _current.get()
    if around is not None and request_id in (None, around.id):
        yield around
        return
    request = Request(request_id or new_id())
    token = _current.set(request)
    try:
        yield request
    finally:
        _current.reset(token)
