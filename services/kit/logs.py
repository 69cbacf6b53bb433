"""Structured logs: one JSON object a line in production, readable lines on a terminal. Never a prompt, never a key.

Everything that is logged while a request is served bears its id (`request_id`), whoever logs it; what other libraries log
comes in the same form. `about` adds to the one line that a request may have of its own (see `http`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from rollout_budget import tracing
from rollout_budget.client import requests

_SECRET_WORDS = ("token", "key", "secret", "password", "authorization", "prompt", "text")
_HARMLESS = ("key_id", "prompt_count", "prompts")

_known: ContextVar[dict[str, Any] | None] = ContextVar("known_of_request", default=None)


@contextmanager
def of_request() -> Iterator[dict[str, Any]]:
    """Gather what is said of one request in this block (`about`)."""
    known: dict[str, Any] = {}
    token = _known.set(known)
    try:
        yield known
    finally:
        _known.reset(token)


def about(**facts: Any) -> None:
    """Say something of the request that is being served, for its line in the log; does nothing beside one."""
    known = _known.get()
    if known is not None:
        known.update(facts)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Blank every field whose name suggests a secret or a prompt: a second wall behind not logging them."""
    for name in event:
        if name not in _HARMLESS and any(word in name.lower() for word in _SECRET_WORDS):
            event[name] = "[redacted]"
    return event


def name_request(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the id of the request under way, and of its trace where there is one."""
    request = requests.current()
    if request is not None:
        event.setdefault("request_id", request.id)
    trace = tracing.trace_id()
    if trace:
        event.setdefault("trace_id", trace)
    return event


def configure(*, json_lines: bool | None = None, level: str = "INFO") -> None:
    """Set up logging of this process to standard error; JSON unless that is a terminal."""
    plain = sys.stderr.isatty() if json_lines is None else not json_lines
    lines = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)  # never local variables
    renderer: Processor = lines if plain else structlog.processors.JSONRenderer()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        name_request,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    ends: list[Processor] = [structlog.processors.format_exc_info, renderer]
    structlog.configure(
        processors=[*shared, *ends],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # as it is then: it may have been replaced
        cache_logger_on_first_use=False,
    )
    _others_too(shared, ends)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to standard error as it is at the moment: it may have been replaced."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # a stream that changes
        return sys.stderr


def _others_too(shared: list[Processor], ends: list[Processor]) -> None:
    """Give the lines of other libraries (the server's, the client's) the same form, from warnings on."""
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ends],
    )
    root = logging.getLogger()
    handler = next((one for one in root.handlers if isinstance(one, _Stderr)), None)
    if handler is None:
        handler = _Stderr()
        root.addHandler(handler)
    handler.setFormatter(formatter)
