"""Errors of the service's edge; everything else is in `rollout_budget.errors`.

Unauthorized
└── Forbidden               the key is good, but its scope does not reach this route
InvalidInput
└── MissingIdempotencyKey   the route needs an Idempotency-Key
Conflict
└── InFlight                another request with this Idempotency-Key has not finished
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
