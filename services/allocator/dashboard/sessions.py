"""What a browser holds in place of a key: who signed in with which key, until when, sealed by the service. Pure.

The key itself is never in it. Whether that key still opens the door is asked on every request (`visitors`), so a session
ends with its key; time alone ends it too. Time is an argument: seconds since 1970 of this process.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

COOKIE = "rollout_budget_session"
IDLE_S = 3_600
"""How long a session outlives its last request: a lunch break. A page that is open asks again every few seconds."""
LONGEST_S = 12 * 3_600
"""How long it lives at most, however busy: a working day."""
MAX_CHARS = 4_096
"""Longest cookie that is read: browsers keep no longer ones, and 200 characters of a team's id, escaped, fit."""

Seal = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Session:
    """`team` is charged for the requests; what a session may see is its key's to say. Moments are whole seconds."""

    key_id: str
    team: str
    began: int
    ends: int


def begin(key_id: str, team: str, now: float) -> Session:
    """Return a session that starts now."""
    return Session(key_id, team, int(now), int(now) + IDLE_S)


def renewed(session: Session, now: float) -> Session | None:
    """Return the session with a later end once half of its time is gone; None while, or where, there is nothing to gain."""
    if session.ends - now > IDLE_S / 2:
        return None
    ends = min(int(now) + IDLE_S, session.began + LONGEST_S)
    return replace(session, ends=ends) if ends > session.ends else None


def write(session: Session, seal: Seal) -> str:
    """Return a session as a cookie's value: URL-safe characters only."""
    fields = json.dumps([session.key_id, session.team, session.began, session.ends])
    text = base64.urlsafe_b64encode(fields.encode()).decode().rstrip("=")
    return f"{text}.{seal(text)}"


def read(value: str, seal: Seal, now: float) -> Session | None:
    """Return the session of a cookie's value; None where it has ended, or was not sealed here."""
    text, dot, sealed = value.partition(".")
    if len(value) > MAX_CHARS or not dot or not value.isascii() or not hmac.compare_digest(seal(text), sealed):
        return None
    try:
        key_id, team, began, ends = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError):
        return None
    return Session(key_id, team, began, ends) if now < ends else None
