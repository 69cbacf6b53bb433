"""Names of requests and spans inside one process: what is kept, what is replaced, what costs nothing."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import structlog

from rollout_budget import tracing
from rollout_budget.client import Retries, SyncAllocatorClient, requests
from rollout_budget.errors import NotFound, RolloutBudgetError, Unavailable
from rollout_budget.wire import BudgetView, RolloutCounts, TeamLimits
from services.kit import logs
from tests.allocator.databases import fresh_sqlite
from tests.allocator.running import Running, running
from tests.operations.processes import collecting

ID = "0f0e-a.trainer's".replace("'", ":")
BAD_IDS = [b"", b"two words", b"x" * 65, b"line\tend", "ünicode".encode(), b"a;b", b'{"json"}']


@pytest.fixture
async def allocator(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, fresh_sqlite(tmp_path), access_log=True) as one:
        yield one


@pytest.fixture
def own_logging() -> Iterator[None]:
    """What a test sets up of this process's logging, it takes away again."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("path", ["/v1/budget", "/livez", "/metrics", "/nowhere"])
async def test_every_answer_bears_the_id_it_was_asked_with(allocator: Running, path: str) -> None:
    """Good answers, operational ones and errors alike."""
    answer = await allocator.http.get(path, headers={**allocator.team, "X-Request-Id": ID})
    assert answer.headers.get_list("x-request-id") == [ID]


@pytest.mark.parametrize("sent", BAD_IDS)
async def test_what_is_no_id_is_replaced(allocator: Running, sent: bytes) -> None:
    """Too long, blank, or with a character that could break a line: none of it comes back or into the log."""
    answer = await allocator.http.get("/v1/budget", headers=[(b"x-request-id", sent)])
    assert len(answer.headers["x-request-id"]) == 36
    assert answer.headers["x-request-id"].encode() != sent


async def test_problems_name_their_request(allocator: Running) -> None:
    """A refusal at the edge, an unknown path, a bad body, and an error that nobody expected (which is logged by it)."""
    bad = {**allocator.team, "X-Request-Id": ID}
    allocator.app.state.service.engine.get_run = None
    answers = [
        await allocator.http.get("/v1/budget", headers={"X-Request-Id": ID}),
        await allocator.http.get("/nowhere", headers=bad),
        await allocator.http.post("/v1/runs", headers=bad, content=b"{"),
    ]
    with structlog.testing.capture_logs([logs.name_request]) as lines:
        answers.append(await allocator.http.get("/v1/runs/r", headers=bad))
    assert [answer.status_code for answer in answers] == [401, 404, 422, 500]
    assert {answer.json()["request_id"] for answer in answers} == {ID}
    assert {answer.headers["x-request-id"] for answer in answers} == {ID}
    assert [(line["event"], line["request_id"]) for line in lines] == [("unexpected error", ID), ("request", ID)]
    assert lines[0]["route"] == lines[1]["route"] == "/v1/runs/{run_id:segment}"
    assert requests.current() is None


async def test_a_request_has_one_line_and_operations_have_none(allocator: Running) -> None:
    """The line says who asked what and how it went; probes and scrapes are left out; it can be turned off."""
    with structlog.testing.capture_logs([logs.name_request]) as lines:
        await allocator.http.post("/v1/runs", headers=allocator.team, json={"run_id": "r", "policy": "p"})
        opening = {"groups": [{"group_id": f"g{n}", "prompt_key": "k"} for n in range(3)]}
        await allocator.http.post("/v1/runs/r/groups/open", headers=allocator.team, json=opening)
        for path in ("/livez", "/readyz", "/metrics"):
            await allocator.http.get(path)
    assert [(line["method"], line["route"], line["status"]) for line in lines] == [
        ("POST", "/v1/runs", 201),
        ("POST", "/v1/runs/{run_id:segment}/groups/open", 200),
    ]
    assert {line["team"] for line in lines} == {"default"}
    assert all(line["ms"] > 0 and line["units"] == 1 for line in lines)
    assert (lines[1]["run"], lines[1]["entries"], list(lines[1]["booked"])) == ("r", 3, ["reserve"])


async def test_the_line_is_for_production_unless_one_asks(tmp_path: Path) -> None:
    """Embedded, a terminal is for the user; `access_log` says otherwise either way."""
    async with running(tmp_path, fresh_sqlite(tmp_path)) as allocator:
        with structlog.testing.capture_logs() as lines:
            assert (await allocator.http.get("/v1/budget", headers=allocator.team)).status_code == 200
    assert lines == []
    settings = allocator.service.settings
    assert settings.model_copy(update={"mode": "production"}).logs_requests
    assert not settings.model_copy(update={"mode": "production", "access_log": False}).logs_requests


class Answers:
    """A service that answers by a script, and keeps the ids it was sent."""

    def __init__(self, *answers: httpx.Response) -> None:
        self._answers = list(answers)
        self.ids: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.ids.append(request.headers["x-request-id"])
        return self._answers.pop(0)


def test_all_attempts_of_a_call_bear_one_id_and_calls_differ(caplog: pytest.LogCaptureFixture) -> None:
    """The warning of a failed attempt names it; calls inside `named` share its name."""
    view = BudgetView(team="t", limits=TeamLimits(), usage=RolloutCounts(), available=None, uses=[])
    good = httpx.Response(200, content=view.model_dump_json())
    service = Answers(httpx.Response(503), good, good, good, good)
    again = Retries(wait_initial_s=0.0, wait_jitter_s=0.0)
    with SyncAllocatorClient("http://a", "k", transport=httpx.MockTransport(service), retries=again) as client:
        client.budget()
        client.budget()
        with requests.named() as outer:
            client.budget()
            client.budget()
    first, repeated, second, *named = service.ids
    assert first == repeated != second
    assert named == [outer.id] * 2
    assert (outer.attempts, outer.failures) == (2, 0)
    assert f"[request {first}]" in caplog.text


def test_an_error_names_its_request() -> None:
    """In a member and in the traceback, but not in the message, which is the same for the same failure."""
    service = Answers(httpx.Response(404), httpx.Response(503))
    transport = httpx.MockTransport(service)
    with SyncAllocatorClient("http://a", "k", transport=transport, retries=Retries(attempts=1)) as client:
        for kind in (RolloutBudgetError, Unavailable):
            with pytest.raises(kind) as caught:
                client.budget()
            assert caught.value.request_id == service.ids[-1]
            assert caught.value.__notes__ == [f"request {service.ids[-1]}"]
            assert service.ids[-1] not in str(caught.value)
    assert NotFound("elsewhere").request_id is None


def test_what_other_libraries_log_has_the_same_form(own_logging: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A warning of the standard library's logging is one object with the request's id; secrets in fields are blanked."""
    logs.configure(json_lines=True)
    logs.configure(json_lines=True)  # again: nothing is written twice
    with requests.named(ID):
        logging.getLogger("other.library").warning("the %s server", "other")
        structlog.get_logger().warning("ours", api_key="rb_secret")
    theirs, ours = map(json.loads, capsys.readouterr().err.splitlines())
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("the other server", "other.library", "warning")
    assert theirs["request_id"] == ours["request_id"] == ID
    assert ours["api_key"] == "[redacted]"


def test_without_the_variable_nothing_of_opentelemetry_is_loaded() -> None:
    """Off is free: no import, and one shared span that says nothing and sends no header."""
    program = (
        "import sys, rollout_budget.client; from rollout_budget import tracing; assert not tracing.start('x')\n"
        "with tracing.span('client', 'GET') as span: span.set(a=1); assert span.headers() == {}\n"
        "assert tracing.span('client', 'a') is tracing.span('server', 'b')\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PATH": ""})


@pytest.mark.parametrize(
    ("missing", "protocol", "said"),
    [
        ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "", "pip install 'rollout-budget[otel]'"),
        (None, "grpc", "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"),
    ],
)
def test_what_cannot_be_traced_is_a_warning(
    missing: str | None, protocol: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The extra is not there, or another protocol is asked for: one line says what to do, and all goes on."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    if missing is not None:
        monkeypatch.setitem(sys.modules, missing, None)
    assert not tracing.start("x")
    assert [said in record.message for record in caplog.records] == [True]
    with tracing.span("client", "GET") as span:
        assert span.trace_id() == ""


def test_a_collector_that_is_away_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be exported is given up after a bound, at the end of a block as at that of a process."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(tracing, "STOP_S", 0.2)
    began = time.monotonic()
    with tracing.on("x"), tracing.span("client", "GET") as span:
        assert span.trace_id()
    assert time.monotonic() - began < 5.0  # the SDK's own tries go on for 10 s
    assert tracing.trace_id() == ""


def fail_inside(carried: dict[str, str], trace: str) -> None:
    with tracing.span("server", "inner", continued=carried) as inner:
        assert inner.trace_id() == tracing.trace_id() == trace
        raise ValueError("a secret that a span does not tell")


def test_a_failure_is_seen_in_its_span_and_headers_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """W3C: the header of a span is what its child in another process goes on from, whoever made it."""
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/v1/traces")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "named-by-the-operator")
        assert tracing.start("x")
        try:
            with tracing.span("client", "outer") as outer:
                carried = outer.headers()
            with pytest.raises(ValueError, match="secret"):
                fail_inside(carried, outer.trace_id())
        finally:
            tracing.stop()
        spans = {span.name: span for span in collector.wait(lambda spans: len(spans) == 2)}
    assert set(carried) == {"traceparent"}
    assert spans["inner"].parent == spans["outer"].id
    assert (spans["outer"].failed, spans["inner"].failed) == (False, True)
    assert spans["inner"].attributes == {"error.type": "ValueError"}
    assert {span.service for span in spans.values()} == {"named-by-the-operator"}
    assert tracing.trace_id() == ""
