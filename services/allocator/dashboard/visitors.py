"""Who looks at the page: the session in the cookie, and its key, which is looked up afresh on every request.

Owns what one process remembers of the page, how the edge tells whose request it is, and what makes a POST ours: a form
that another site sends is refused, whatever cookies a browser adds to it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from services.allocator.auth import Door
from services.allocator.dashboard import sessions
from services.allocator.dashboard.sessions import Session
from services.allocator.dashboard.spending import Spending
from services.allocator.identity import Identity
from services.kit.edge import Pages

PREFIX = "/dashboard"
ENDED_KEYS = 1_024
"""Keys remembered as ended, so that sessions of theirs spend their team's rates no more."""


@dataclass(slots=True)
class State:
    """What one process remembers of the page: spending by minute, and keys that have ended."""

    spending: Spending = field(default_factory=Spending)
    ended: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def has_ended(self, key_id: str) -> None:
        """Remember that sessions of this key are over."""
        self.ended[key_id] = None
        if len(self.ended) > ENDED_KEYS:
            self.ended.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Someone who is signed in, with a key that is good now."""

    identity: Identity
    session: Session

    @property
    def is_admin(self) -> bool:
        """Whether all teams are shown."""
        return self.identity.scope == "admin"


async def visitor(request: Request) -> Visitor | None:
    """Return who is signed in; None without a session, and once its key was revoked, has expired or moved."""
    door: Door = request.app.state.service.door
    session = _session(door, request.headers)
    if session is None:
        return None
    identity = await door.holder(session.key_id)
    if identity is None or identity.team != session.team:
        request.app.state.dashboard.has_ended(session.key_id)
        return None
    return Visitor(identity, session)


def recall(app: Any, headers: Headers) -> str | None:
    """Return the team of a session; asks nobody."""
    service = getattr(app.state, "service", None)
    if service is None:
        return None
    session = _session(service.door, headers)
    return None if session is None or session.key_id in app.state.dashboard.ended else session.team


PAGES = Pages(PREFIX, recall)
"""What the edge is told: a session's requests are admitted like its team's, all others come at the rate of strangers."""


def from_elsewhere(headers: Headers) -> bool:
    """Whether a form was sent by a page of another site. Browsers say so in these headers, and scripts cannot set them.

    Where a browser tells the site, that decides: a proxy may have changed the host. By plain HTTP it tells the origin only.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site not in {"same-origin", "none"}
    return origin is not None and urlsplit(origin).netloc != headers.get("host", "")


def _session(door: Door, headers: Headers) -> Session | None:
    value = cookie_parser(headers.get("cookie", "")).get(sessions.COOKIE, "")
    return sessions.read(value, door.seal, time.time()) if value else None
