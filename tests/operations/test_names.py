"""One name per call, from the trainer's own file to the ledger's rows: with real processes, and one real trace."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rollout_budget import tracing
from rollout_budget.client import AllocatorClient, ResilientAllocator, Retries, SyncAllocatorClient
from rollout_budget.client.notices import Notice
from rollout_budget.wire import OpenGroup, OpenRequest, RunSpec
from tests.operations.processes import Collector, Process, Span, collecting, service, starting, wait_for
from tests.trainer.wiring import TINY
from trainer.config import load
from trainer.loop import run_training

pytestmark = pytest.mark.services
PATIENCE_S = "0.5"
"""How long the allocator waits for the prior: a test that stops it should not wait for long."""

SERVICE_KEY = "k" * 32


@dataclass
class Stack:
    """A prior service, an allocator that asks it, and where both send their spans."""

    prior: Process
    allocator: Process
    collector: Collector
    folder: Path

    @property
    def key_file(self) -> Path:
        return self.folder / "allocator" / "team.key"

    @property
    def key(self) -> str:
        return self.key_file.read_text().strip()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with pytest.MonkeyPatch.context() as patch, collecting() as collector:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        own = {"DATA": str(folder / "prior"), "ACCESS_LOG": "true", "SERVICE_KEYS": f'["{SERVICE_KEY}"]'}
        with starting("services.prior_api", ["serve"], own, folder / "prior.log") as prior:
            own = {
                "DATA": str(folder / "allocator"),
                "ACCESS_LOG": "true",
                "PRIOR_URL": prior.url,
                "PRIOR_KEY": SERVICE_KEY,
                "PRIOR_DEADLINE_S": PATIENCE_S,
            }
            with service("services.allocator", ["serve"], own, folder / "allocator.log") as allocator:
                prior.wait_ready()
                yield Stack(prior, allocator, collector, folder)


def test_one_trace_from_the_client_to_the_prior(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's span is the allocator's parent, whose span has the transactions and the call to the prior in it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", stack.collector.url)
    assert tracing.start("a-trainer")
    try:
        with SyncAllocatorClient(stack.allocator.url, stack.key) as client:
            client.create_run(RunSpec(run_id="traced", policy="p"))
            group = OpenGroup(group_id="g", prompt_key="k", prompt="a prompt that no span and no line may show")
            client.open("traced", OpenRequest(groups=[group]))
    finally:
        tracing.stop()
    spans = stack.collector.wait(
        lambda spans: any(one.name == "POST /v1/values" for one in spans) and _open(spans) != []
    )
    opened = _open(spans)[0]
    by_id = {one.id: one for one in spans}
    assert by_id[opened.parent].service == "a-trainer"
    of_trace = [one for one in spans if one.trace == opened.trace]
    inside = [one for one in of_trace if one.parent == opened.id]
    assert "database transaction" in {one.name for one in inside}
    asked = next(one for one in of_trace if one.name == "POST /v1/values")
    assert asked.service == "rollout-budget-prior-service"
    assert by_id[asked.parent].service == "rollout-budget-allocator"
    assert {one.attributes.get("rollout_budget.request_id") for one in of_trace} - {None} == {
        opened.attributes["rollout_budget.request_id"]
    }
    assert opened.attributes["rollout_budget.team"] == "default"
    lines = stack.allocator.lines_of(opened.attributes["rollout_budget.request_id"])
    assert {line["trace_id"] for line in lines} == {opened.trace}
    assert "no span and no line" not in str(spans) + stack.allocator.log.read_text() + stack.prior.log.read_text()


def _open(spans: list[Span]) -> list[Span]:
    return [one for one in spans if one.name == "POST /v1/runs/{run_id:segment}/groups/open"]


def test_one_grep_from_a_trainers_step_to_the_ledger(
    stack: Stack, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A step whose prior came too late names a request: both services' logs know it, and its line finds its entries."""
    wanted = [
        *TINY, "run.id=struck", "run.steps=1", "evaluation.every=0", f"run.output_dir={tmp_path}",
        f"run.cache_dir={tmp_path_factory.mktemp('policies')}",
        f"allocator.url={stack.allocator.url}", f"allocator.key_file={stack.key_file}",
    ]  # fmt: skip
    stack.prior.send(signal.SIGSTOP)
    try:
        run_training(load(None, wanted))
    finally:
        stack.prior.send(signal.SIGCONT)
    rows = [json.loads(line) for line in (tmp_path / "struck" / "metrics.jsonl").read_text().splitlines()]
    struck = next(row for row in rows if row["request_ids"])
    assert struck["degraded"]
    name = struck["request_ids"][0]
    line = next(line for line in stack.allocator.lines_of(name) if line["event"] == "request")
    assert (line["route"], line["status"], line["team"]) == ("/v1/runs/{run_id:segment}/groups/open", 200, "default")
    assert (line["run"], line["units"]) == ("struck", 1)
    assert line["ms"] >= float(PATIENCE_S) * 1e3
    wait_for(lambda: stack.prior.lines_of(name), "the prior's line of a request that it served too late")
    with sqlite3.connect(stack.folder / "allocator" / "allocator.db") as database:
        places = ", ".join("?" * len(line["booked_at"]))
        found = database.execute(
            f"SELECT kind, run, rollouts FROM entries WHERE team = ? AND at_s IN ({places})",  # noqa: S608  marks
            [line["team"], *line["booked_at"]],
        ).fetchall()
    database.close()
    assert len(found) == line["entries"] == struck["groups"]
    assert {(kind, run) for kind, run, _ in found} == {("reserve", "struck")}
    assert sum(rollouts for *_, rollouts in found) == line["booked"]["reserve"]
    step = [one for one in stack.collector.wait(_has_step) if one.service == "rollout-budget-trainer"]
    assert line["trace_id"] in {one.trace for one in step if one.name == "collect rollouts"}


def _has_step(spans: list[Span]) -> bool:
    return any(one.name == "collect rollouts" for one in spans)


def test_a_call_that_found_nobody_is_named_to_the_trainer(stack: Stack) -> None:
    """The notice, every answer made without the service, and the reason they give bear the id that was sent."""
    told: list[Notice] = []

    async def ask() -> tuple[str, str]:
        nowhere = AllocatorClient("http://127.0.0.1:1", "rb_none", retries=Retries(attempts=1))
        async with nowhere as client:
            trainer = ResilientAllocator(client, notify=told.append)
            await trainer.create_run(RunSpec(run_id="r", policy="p"))
            answer = await trainer.open("r", OpenRequest(groups=[OpenGroup(group_id="g", prompt_key="k")]))
            return answer.detail, trainer.fallback_reason

    detail, reason = asyncio.run(ask())
    name = reason.rpartition("[request ")[2].removesuffix("]")
    assert len(name) == 36
    assert detail == reason
    assert told[0].detail.endswith(f"[request {name}]")
    assert stack.allocator.lines_of(name) == []  # it never came there


def test_every_line_of_both_logs_is_an_object(stack: Stack) -> None:
    """What the server and other libraries log is of the same form; nothing operational has a line."""
    for process in (stack.prior, stack.allocator):
        lines = process.lines()
        assert {"event", "level", "timestamp"} <= set.intersection(*(set(line) for line in lines))
        assert not any(line.get("route") in {"/readyz", "/livez", "/metrics"} for line in lines)
