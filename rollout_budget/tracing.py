"""Optional OpenTelemetry: spans of calls, requests and ledger transactions, exported over OTLP/HTTP.

Owns the switch and the only lines that touch OpenTelemetry; needs the extra `otel`. Off, a span is one shared object that
does nothing, and nothing of OpenTelemetry is imported. `start` turns it on where the standard variables ask for it
(`OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, and not `OTEL_SDK_DISABLED=true`); all others,
such as `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and `OTEL_EXPORTER_OTLP_HEADERS`, are the SDK's to read. Spans
carry ids, counts and route templates; never a prompt, an outcome or a key.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Literal, Protocol, cast

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Either turns tracing on: what to do with spans is said by where they go."""
PROTOCOL = "http/protobuf"
"""The one protocol of OTLP that is spoken here; the other takes gRPC."""
STOP_S = 3.0
"""Longest wait for a collector at the end: traces are worth less than a quick restart."""
Kind = Literal["client", "server", "internal"]

_log = logging.getLogger("rollout_budget.tracing")


class Span(Protocol):
    """One piece of work."""

    def set(self, **attributes: str | float) -> None:
        """Say more of it; `__` in a name stands for a dot."""
        ...

    def rename(self, name: str) -> None:
        """Call it otherwise, once more is known."""
        ...

    def failed(self) -> None:
        """Mark it as gone wrong."""
        ...

    def headers(self) -> dict[str, str]:
        """Return the headers by which another process continues this trace (W3C `traceparent`)."""
        ...

    def trace_id(self) -> str:
        """Return the trace's id, 32 hexadecimal digits; empty while tracing is off."""
        ...


class _Nothing:
    """The span of a process that traces nothing, and its own context manager."""

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def set(self, **attributes: str | float) -> None:
        pass

    def rename(self, name: str) -> None:
        pass

    def failed(self) -> None:
        pass

    def headers(self) -> dict[str, str]:
        return {}

    def trace_id(self) -> str:
        return ""


class _Recorded:
    """A span of OpenTelemetry."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def set(self, **attributes: str | float) -> None:
        for name, value in attributes.items():
            self._span.set_attribute(name.replace("__", "."), value)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def failed(self) -> None:
        from opentelemetry.trace import StatusCode  # noqa: PLC0415  an optional extra

        self._span.set_status(StatusCode.ERROR)

    def headers(self) -> dict[str, str]:
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415  an optional extra
            TraceContextTextMapPropagator,
        )

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        return carrier

    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"


_NOTHING = _Nothing()
_tracer: Any = None
_provider: Any = None


def span(
    kind: Kind, name: str, *, continued: Mapping[str, str] | None = None, **attributes: str | float
) -> AbstractContextManager[Span]:
    """Enter a piece of work, a child of the one around it; an error that leaves the block marks it as failed.

    Args:
        kind: who asks whom.
        name: of few different values, so never with an id in it.
        continued: headers of another process whose trace goes on here.
        attributes: what to say of it; `__` in a name stands for a dot.
    """
    return _NOTHING if _tracer is None else _recorded(kind, name, continued, attributes)


def start(service: str) -> bool:
    """Turn tracing on where the environment asks for it, once per process; say whether it is on.

    Without the extra, or with a protocol that is not spoken here, a warning says what to do, and everything goes on
    without spans. `OTEL_SERVICE_NAME` comes before `service`.
    """
    global _tracer, _provider  # noqa: PLW0603  one switch per process
    if _tracer is not None:
        return True
    endpoint = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if endpoint is None or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    spoken = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if spoken and spoken != PROTOCOL:
        _log.warning("no traces: OTLP over %s is not spoken here; set OTEL_EXPORTER_OTLP_PROTOCOL=%s", spoken, PROTOCOL)
        return False
    try:
        _provider = _exporting(service)
    except ImportError as error:
        what = f"no traces: {endpoint} is set, but {error.name or 'OpenTelemetry'} is not installed"
        _log.warning("%s; pip install 'rollout-budget[otel]', or unset it", what)
        return False
    _tracer = _provider.get_tracer("rollout_budget")
    atexit.register(stop)
    return True


def stop() -> None:
    """Export what is left, for at most `STOP_S`, and turn tracing off; does nothing where it is off."""
    global _tracer, _provider
    provider, _tracer, _provider = _provider, None, None
    if provider is not None:
        last = threading.Thread(target=provider.shutdown, daemon=True)
        last.start()
        last.join(STOP_S)


@contextmanager
def on(service: str) -> Iterator[None]:
    """Trace this block, where the environment asks for it, and export what is left at its end."""
    ours = _tracer is None and start(service)
    try:
        yield
    finally:
        if ours:
            stop()


def trace_id() -> str:
    """Return the id of the trace around this line, for logs; empty where there is none."""
    if _tracer is None:
        return ""
    from opentelemetry import trace  # noqa: PLC0415  an optional extra

    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def _exporting(service: str) -> Any:
    """Return a provider of the SDK that exports in the background; no other part of the process is given it."""
    exporting = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    sdk = importlib.import_module("opentelemetry.sdk.trace")
    batches = importlib.import_module("opentelemetry.sdk.trace.export")
    resources = importlib.import_module("opentelemetry.sdk.resources")
    named = os.environ.get("OTEL_SERVICE_NAME") or service
    resource = resources.Resource.create({"service.name": named})
    provider = sdk.TracerProvider(resource=resource, shutdown_on_exit=False)  # `stop` has a bound, the SDK's own none
    provider.add_span_processor(batches.BatchSpanProcessor(exporting.OTLPSpanExporter()))
    return provider


@contextmanager
def _recorded(
    kind: Kind, name: str, continued: Mapping[str, str] | None, attributes: Mapping[str, str | float]
) -> Iterator[Span]:
    from opentelemetry.trace import SpanKind  # noqa: PLC0415  an optional extra
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415  an optional extra
        TraceContextTextMapPropagator,
    )

    around = None if continued is None else TraceContextTextMapPropagator().extract(continued)
    dotted = {name.replace("__", "."): value for name, value in attributes.items()}
    own = {"record_exception": False, "set_status_on_exception": False}  # what an error says may name more than ids
    with _tracer.start_as_current_span(name, around, SpanKind[kind.upper()], dotted, **own) as span:
        recorded = _Recorded(span)
        try:
            yield cast("Span", recorded)
        except BaseException as error:
            recorded.set(error__type=type(error).__name__)
            recorded.failed()
            raise
