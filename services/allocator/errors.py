"""Errors of the service's edge; everything else is in `rollout_budget.errors`.

Unauthorized
└── Forbidden               the key is good, but its scope does not reach this route
InvalidInput
└── MissingIdempotencyKey   the route needs an Idempotency-Key
Conflict
├── InFlight                another request with this Idempotency-Key has not finished
├── KeyNotActive            the key has ended or was rotated before
├── TeamClosed              the team is closed: it gets no keys and no limits
├── OwnTeam                 the key that asks is of this team, and would end
└── ChangedMeanwhile        what the request was made from no longer stands
"""

from __future__ import annotations

from rollout_budget.errors import Conflict, InvalidInput, Unauthorized


class Forbidden(Unauthorized):
    """The key is good, but its scope does not reach this route."""

    code = "forbidden"
    status = 403


class MissingIdempotencyKey(InvalidInput):
    """The route needs an Idempotency-Key, so that a repeated request takes effect once."""

    code = "idempotency-key-missing"
    status = 400


class InFlight(Conflict):
    """Another request with this Idempotency-Key has not finished; the same request may be sent again."""

    code = "in-flight"
    status = 409
    retryable = True


class KeyNotActive(Conflict):
    """The key has ended or was rotated before; the message names what to do instead."""

    code = "key-not-active"
    status = 409


class TeamClosed(Conflict):
    """The team is closed: it gets no keys and no limits until it is reopened."""

    code = "team-closed"
    status = 409


class OwnTeam(Conflict):
    """The key that asks is of this team and would end with it: another admin's key may close it."""

    code = "own-team"
    status = 409


class ChangedMeanwhile(Conflict):
    """What the request was made from no longer stands; nothing was changed. Read it again and decide anew."""

    code = "changed-meanwhile"
    status = 409
