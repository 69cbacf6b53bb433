"""Real service processes with their logs in files, and a receiver of OTLP in this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.ports import free_port

T = TypeVar("T")
START_S = 120.0
"""A service needs 3 s to start where nothing else runs, and ten times that on cores which others keep busy."""
POLL_S = 0.05


@dataclass
class Process:
    """One service."""

    url: str
    log: Path
    child: subprocess.Popen[bytes]

    def send(self, which: signal.Signals) -> None:
        self.child.send_signal(which)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal, and one that lets a stopped process receive it; return the exit status."""
        self.send(how)
        self.send(signal.SIGCONT)
        return self.child.wait(timeout=60)

    def wait_ready(self) -> None:
        wait_for(lambda: _ready(self), f"{self.url} ready")

    def lines(self) -> list[dict[str, Any]]:
        """Return the whole lines of its log: every one is an object of JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def lines_of(self, request_id: str) -> list[dict[str, Any]]:
        """Return what a grep for a request's id finds."""
        return [line for line in self.lines() if line.get("request_id") == request_id]


@contextmanager
def service(module: str, arguments: list[str], environment: Mapping[str, str], log: Path) -> Iterator[Process]:
    """Run a service, once it is ready, until the end of the block; `environment` has its settings without their prefix."""
    with starting(module, arguments, environment, log) as process:
        process.wait_ready()
        yield process


@contextmanager
def starting(module: str, arguments: list[str], environment: Mapping[str, str], log: Path) -> Iterator[Process]:
    """Run a service until the end of the block, without waiting for it."""
    port = free_port()
    prefix = "ROLLOUT_BUDGET_PRIOR_" if module == "services.prior_api" else "ROLLOUT_BUDGET_ALLOCATOR_"
    mine = {f"{prefix}{name}": value for name, value in {"PORT": str(port), **environment}.items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ROLLOUT_BUDGET_")}
    with log.open("ab") as lines:
        child = subprocess.Popen([sys.executable, "-m", module, *arguments], env=inherited | mine, stderr=lines)
    url = f"http://127.0.0.1:{environment.get('PORT', port)}"
    process = Process(url, log, child)
    try:
        yield process
    finally:
        if child.poll() is None:
            process.stop()


def _ready(process: Process) -> bool:
    assert process.child.poll() is None, process.log.read_text()
    try:
        return httpx.get(f"{process.url}/readyz", timeout=5.0).status_code == 200
    except httpx.TransportError:
        return False


def wait_for(found: Callable[[], T], what: str) -> T:
    """Return the first true answer: another process acts, and nothing but asking tells when it has."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if answer := found():
            return answer
        time.sleep(POLL_S)
    raise AssertionError(f"not within {START_S:g} s: {what}")


@dataclass(frozen=True)
class Span:
    """What a test asks of a span that has arrived."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    failed: bool


@dataclass
class Collector:
    """Spans that were received, and where to send them."""

    url: str
    spans: list[Span] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, enough: Callable[[list[Span]], bool]) -> list[Span]:
        """Return the spans once there are enough of them."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: enough(self.spans), timeout=START_S), self.spans
            return list(self.spans)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a receiver of OTLP over HTTP, as a collector is one."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    server.collector = collector  # type: ignore[attr-defined]  # how a handler finds it
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": POLL_S})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        collector: Collector = self.server.collector  # type: ignore[attr-defined]  # put there by `collecting`
        with collector.arrived:
            collector.spans += _spans(sent)
            collector.arrived.notify_all()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _spans(sent: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in sent.resource_spans:
        names = {one.key: one.value.string_value for one in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                values = {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}
                ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                yield Span(names["service.name"], span.name, *ids, values, span.status.code == Status.STATUS_CODE_ERROR)
