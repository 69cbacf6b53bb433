"""Every error that this package raises on purpose.

    RolloutBudgetError
    ├── InvalidInput            the caller's data is out of its declared bounds (also a ValueError)
    ├── Conflict                an id was used before with another body
    │   └── RunFinished         the run has ended; it opens no more groups
    ├── NotFound                no such run, group or reservation for this team
    └── ServiceError            a service could not be used
        ├── Unavailable         refused, timed out or shedding load; retrying later may work
        ├── Unauthorized        the key is missing, unknown, expired or lacks the scope
        └── OutcomeUnknown      the request may or may not have taken effect; says how to ask

`code` is the machine-readable name that problem+json answers carry too; `retryable` says whether the same request,
sent again unchanged, can succeed.
"""

from __future__ import annotations

from typing import ClassVar


class RolloutBudgetError(Exception):
    """Root of the tree above.

    Attributes:
        request_id: of the call to a service that ended so, as that service's log names it; None where there was none.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    request_id: str | None = None


class InvalidInput(RolloutBudgetError, ValueError):
    """The caller's data is out of its declared bounds; nothing was stored."""

    code = "invalid-input"
    status = 422


class Conflict(RolloutBudgetError):
    """An id was used before with another body; the first body stands."""

    code = "id-reused"
    status = 422


class RunFinished(Conflict):
    """The run has ended; it opens no more groups. What was answered before is still answered the same."""

    code = "run-finished"
    status = 409


class NotFound(RolloutBudgetError):
    """No such run, group or reservation is visible to this team."""

    code = "not-found"
    status = 404


class ServiceError(RolloutBudgetError):
    """A service could not be used."""

    code = "service-error"


class Unavailable(ServiceError):
    """The service refused, timed out or shed load; the same request may succeed later."""

    code = "unavailable"
    status = 503
    retryable = True


class Unauthorized(ServiceError):
    """The key is missing, unknown, expired or lacks the scope that the route needs."""

    code = "unauthorized"
    status = 401


class OutcomeUnknown(ServiceError):
    """Retries are used up after the request was sent: it may or may not have taken effect.

    Ids make the same request safe to repeat later; `GET /v1/reservations/{id}` tells what happened to a grant.
    """

    code = "outcome-unknown"
    status = 504
    retryable = True
