"""Structured logs: one JSON object a line in production, readable lines on a terminal. Never a prompt, never a key."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_SECRET_WORDS = ("token", "key", "secret", "password", "authorization", "prompt", "text")
_HARMLESS = ("key_id", "prompt_count", "prompts")


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Blank every field whose name suggests a secret or a prompt: a second wall behind not logging them."""
    for name in event:
        if name not in _HARMLESS and any(word in name.lower() for word in _SECRET_WORDS):
            event[name] = "[redacted]"
    return event


def configure(*, json_lines: bool | None = None, level: str = "INFO") -> None:
    """Set up logging of this process to standard error; JSON unless that is a terminal."""
    plain = sys.stderr.isatty() if json_lines is None else not json_lines
    lines = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)  # never local variables
    renderer: Processor = lines if plain else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redact,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # as it is then: it may have been replaced
        cache_logger_on_first_use=False,
    )
