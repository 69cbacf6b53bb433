"""Spans of what a service is asked, where tracing is on: `rollout_budget.tracing` has the switch.

A request's span goes on in the trace of whoever sent it (W3C `traceparent`). It bears the method, the route's template,
the status, the request's id and the team; never a path, which holds ids, and nothing of a body.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from starlette.datastructures import Headers

from rollout_budget import tracing
from rollout_budget.tracing import Span

CONTINUED = ("traceparent", "tracestate")
"""The headers that name the trace of whoever asks."""


def start(service: str) -> None:
    """Turn tracing on where the environment asks for it."""
    tracing.start(service)


def stop() -> None:
    """Export what is left."""
    tracing.stop()


def serving(method: str, headers: Headers, request_id: str) -> AbstractContextManager[Span]:
    """Enter the span of one request."""
    continued = {name: headers[name] for name in CONTINUED if name in headers}
    return tracing.span(
        "server",
        method,
        continued=continued,
        http__request__method=method,
        rollout_budget__request_id=request_id,
    )


def answered(span: Span, method: str, route: str, status: int, known: Mapping[str, Any]) -> None:
    """Say how the request ended; `known` is what its line in the log says of it."""
    span.rename(f"{method} {route}")
    span.set(http__route=route, http__response__status_code=status)
    if "team" in known:
        span.set(rollout_budget__team=known["team"])
    if status >= 500:
        span.failed()
