"""Every error that leaves a service is RFC 9457 problem+json, validation errors included.

`install` maps the tree in `rollout_budget.errors` by its own `status`, `code` and `retryable`; a service adds errors by
subclassing, never by handlers of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from rollout_budget.client import requests
from rollout_budget.errors import InvalidInput, RolloutBudgetError, Unavailable
from rollout_budget.wire import Problem

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
"""Sent with every 503: long enough for a lock or a restart of a connection, short against a training step."""

_CODES = {
    HTTPStatus.BAD_REQUEST: InvalidInput.code,
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "not-found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method-not-allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too-large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "unsupported-media-type",
    HTTPStatus.TOO_MANY_REQUESTS: "rate-limited",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
}
_MEANINGS = {
    400: ("The body is no JSON, or a header that is needed is missing.", "a valid JSON body is needed"),
    401: (
        "No key came with the request, or one that is unknown, expired or revoked.",
        "a valid Bearer key is needed",
    ),
    403: ("The key's scope does not allow this.", "this needs a key of scope admin"),
    404: ("Nothing of the key's team has this id.", "no run 'math-2'"),
    409: ("What stands already does not allow it; `detail` says what does.", "run 'math-1' is finished"),
    413: (
        "The body is larger than the service accepts. Nothing was read.",
        "a body of this service is at most 67108864 bytes long",
    ),
    422: (
        "A value is out of its bounds, or an id came before with another body. Nothing was stored.",
        "body.groups.0.outcomes.1: Input should be a finite number",
    ),
    429: (
        "Too many requests; `Retry-After` says when to come back. Nothing was read.",
        "too many requests of this team: come back in 1 s",
    ),
    503: (
        "Overloaded, stopping or without its database; `Retry-After` says when to come back. Repeating is safe.",
        "too many requests wait already; nothing was read or stored",
    ),
}
"""What an error means to a caller, and how one of them reads, in the document."""

_log = structlog.get_logger(__name__)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's `responses=` for these error statuses, each with the schema of `Problem` and an example."""
    return {
        status: {
            "description": _MEANINGS[status][0],
            "model": Problem,
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {"problem": {"$ref": f"#/components/examples/problem_{status}"}},
                }
            },
        }
        for status in statuses
    }


def examples() -> dict[str, Any]:
    """Return the document's `components.examples`, to which `documented` refers."""
    return {
        f"problem_{status}": {
            "summary": HTTPStatus(status).phrase,
            "value": Problem(
                title=HTTPStatus(status).phrase,
                status=status,
                detail=detail,
                request_id="0c4e9a52-6f0a-4c1b-9d57-1f3b8c1e7a90",
                code={409: "run-finished", 422: InvalidInput.code}.get(status) or _CODES[HTTPStatus(status)],
                retryable=status in {429, 503},
            ).model_dump(mode="json", exclude_none=True),
        }
        for status, (_, detail) in _MEANINGS.items()
    }


def response(status: int, detail: str, *, code: str, retryable: bool = False, **extra: Any) -> Response:
    """Build one problem+json response; `extra` become further members. It names the request that is being served."""
    request = requests.current()
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        retryable=retryable,
        request_id=None if request is None else request.id,
        **extra,
    )
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(problem.model_dump_json(exclude_none=True), status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Install the handlers on `app`."""
    app.add_exception_handler(RolloutBudgetError, _own)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def _own(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RolloutBudgetError)  # noqa: S101  registered for this class alone
    extra = getattr(error, "members", {})
    return response(error.status, str(error), code=error.code, retryable=error.retryable, **extra)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  registered for this class alone
    faults = [{"at": list(fault["loc"]), "message": _message(fault)} for fault in error.errors()]
    first = faults[0]
    media_type = request.headers.get("content-type", "")
    if first["at"] == ["body"] and media_type and "json" not in media_type:
        first["message"] = f"send it as Content-Type: application/json, not as {media_type}"
    where = ".".join(str(part) for part in json.loads(json.dumps(first["at"], default=str)))
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    detail = f"{where}: {first['message']}{more}"
    return response(InvalidInput.status, detail, code=InvalidInput.code, errors=faults[:20])


def _message(fault: Mapping[str, Any]) -> str:
    """Say what is wrong with one field: as pydantic does, but where that leaves the caller to guess."""
    if fault["type"] == "extra_forbidden":
        return "there is no such field; /openapi.json lists those there are"
    if fault["type"] == "json_invalid":
        return f"no JSON: {fault['ctx']['error']}, at this character"
    return str(fault["msg"]).removeprefix("Value error, ")


def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  registered for this class alone
    code = _CODES.get(HTTPStatus(error.status_code), "http-error")
    unrouted = error.status_code == HTTPStatus.NOT_FOUND and error.detail == HTTPStatus.NOT_FOUND.phrase
    detail = "there is no such path; /openapi.json lists those there are" if unrouted else str(error.detail)
    answer = response(error.status_code, detail, code=code, retryable=code == Unavailable.code)
    answer.headers.update(error.headers or {})
    return answer


def _unexpected(request: Request, error: Exception) -> Response:
    return unexpected(getattr(request.scope.get("route"), "path", "unmatched"), error)


def unexpected(route: str, error: Exception) -> Response:
    """Log an error that nobody expected, and return the answer that says so."""
    _log.error("unexpected error", route=route, exc_info=error)
    return response(
        500,
        "The service failed, and its log says why; repeating the request with the same ids is safe.",
        code="internal",
    )
