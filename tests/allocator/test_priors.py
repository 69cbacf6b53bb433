"""The prior service behind the port: its deadline, its breaker, degradation, and evidence that waits for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from rollout_budget.client import PriorClient, Retries
from rollout_budget.client.breaker import Breaker
from rollout_budget.errors import ServiceError, Unavailable
from rollout_budget.wire import EvidenceRow, Prompt
from services.allocator.metrics import Metrics
from services.allocator.priors import RemotePriors
from services.allocator.workers import Worker
from tests.allocator.databases import fresh_sqlite
from tests.allocator.running import running

PROMPTS = [Prompt(key="k", text="What is 2 + 3?")]
VALUE = {"key": "k", "value": 0.75, "standard_error": 0.1, "evidence_count": 3}
VALUES = {
    "values": [VALUE],
    "model": "gp",
    "model_version": "1",
    "evidence_version": 9,
}
STORED = {"stored": 1, "repeated": 0, "evidence_version": 10}
ROW = EvidenceRow(id="e", key="k", version=0, successes=1, trials=2)
ROWS = [ROW.model_copy(update={"id": f"e{index}"}) for index in range(13)]
IDS = [row.id for row in ROWS]


def well(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=STORED if request.url.path.endswith("evidence") else VALUES)


def problem(status: int) -> httpx.Response:
    code = "unavailable" if status == 503 else "id-reused"
    body = {"title": "t", "status": status, "detail": "d", "code": code}
    return httpx.Response(status, json=body, headers={"Content-Type": "application/problem+json"})


class FakePriorService:
    """A prior service that answers as told and keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.answer: Callable[[httpx.Request], httpx.Response] = well
        self.hold = asyncio.Event()
        self.hold.set()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        await self.hold.wait()
        return self.answer(request)

    def refuse(self, status: int) -> None:
        self.answer = lambda _: problem(status)


@pytest.fixture
def fake() -> FakePriorService:
    return FakePriorService()


@asynccontextmanager
async def remote(fake: FakePriorService, **more: Any) -> AsyncIterator[RemotePriors]:
    transport = httpx.MockTransport(fake)
    async with PriorClient("http://prior", "key", retries=Retries(attempts=1), transport=transport) as client:
        yield RemotePriors(client, **{"deadline_s": 5.0, **more})


async def test_the_team_is_named_and_values_come_back(fake: FakePriorService) -> None:
    """One call, one answer, in the name of the team that asks."""
    async with remote(fake) as priors:
        answer = await priors.values("team/1", "p", 3, PROMPTS, "gp")
    assert (answer.values[0].value, answer.evidence_version) == (0.75, 9)
    assert fake.requests[0].headers["rollout-budget-team"] == "team%2F1"


async def test_an_answer_after_the_deadline_is_none(fake: FakePriorService) -> None:
    """The wait is bounded, whatever the service does."""
    fake.hold.clear()
    async with remote(fake, deadline_s=0.02) as priors:
        with pytest.raises(Unavailable, match=r"within 0\.02 s"):
            await priors.values("t", "p", 0, PROMPTS, "gp")


async def test_the_breaker_keeps_calls_from_waiting_and_finds_the_service_back(fake: FakePriorService) -> None:
    """After two failures nothing is sent until a probe is due; its success closes the breaker."""
    now = 0.0
    async with remote(fake, breaker=Breaker(threshold=2, probe_after_s=10.0), clock=lambda: now) as priors:
        fake.refuse(503)
        for _ in range(5):
            with pytest.raises(Unavailable):
                await priors.values("t", "p", 0, PROMPTS, "gp")
        assert len(fake.requests) == 2
        now, fake.answer = 10.0, well
        for _ in range(3):
            await priors.values("t", "p", 0, PROMPTS, "gp")
        assert len(fake.requests) == 5


async def test_slow_evidence_does_not_degrade_values(fake: FakePriorService) -> None:
    """Deliveries that time out open a breaker of their own: values go on, and the next delivery is not even sent."""
    async with remote(fake, evidence_deadline_s=0.02) as priors:
        fake.hold.clear()
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"within 0\.02 s"):
                await priors.add_evidence("t", "p", [ROW])
        with pytest.raises(Unavailable, match="is away"):
            await priors.add_evidence("t", "p", [ROW])
        fake.hold.set()
        assert (await priors.values("t", "p", 0, PROMPTS, "gp")).evidence_version == 9


async def test_evidence_may_take_longer_than_values(fake: FakePriorService) -> None:
    """With values cut off, a delivery of the same length arrives."""
    async with remote(fake, deadline_s=0.02) as priors:
        fake.hold.clear()
        delivery = asyncio.create_task(priors.add_evidence("t", "p", [ROW]))
        with pytest.raises(Unavailable, match=r"within 0\.02 s"):
            await priors.values("t", "p", 0, PROMPTS, "gp")
        assert not delivery.done()
        fake.hold.set()
        await delivery
    assert {request.url.path for request in fake.requests} == {"/v1/policies/p/evidence", "/v1/values"}


async def test_a_refusal_is_no_outage(fake: FakePriorService) -> None:
    """A prompt key with another text degrades that answer and leaves the breaker closed; refused evidence is not kept."""
    async with remote(fake) as priors:
        fake.refuse(422)
        for _ in range(5):
            with pytest.raises(ServiceError, match="refused the request"):
                await priors.values("t", "p", 0, PROMPTS, "gp")
        await priors.add_evidence("t", "p", [ROW])
        assert len(fake.requests) == 6


class PickyPriorService(FakePriorService):
    """A prior service that refuses any batch with one of some rows, stores the others, and goes away after a while."""

    def __init__(self, bad: set[str], answers: int = 10_000) -> None:
        super().__init__()
        self.bad = bad
        self.stored: list[str] = []
        self.answers = answers
        self.answer = self.judge

    def judge(self, request: httpx.Request) -> httpx.Response:
        ids = [row["id"] for row in json.loads(request.content)["rows"]]
        if len(self.requests) > self.answers:
            return problem(503)
        if self.bad.intersection(ids):
            return problem(422)
        self.stored += ids
        return well(request)


class ChoosyPriorService(FakePriorService):
    """A prior service that refuses any batch with one of some keys, and values the others."""

    def __init__(self, bad: set[str]) -> None:
        super().__init__()
        self.bad = bad
        self.answer = self.judge

    def judge(self, request: httpx.Request) -> httpx.Response:
        keys = [prompt["key"] for prompt in json.loads(request.content)["prompts"]]
        if self.bad.intersection(keys):
            return problem(422)
        return httpx.Response(200, json={**VALUES, "values": [{**VALUE, "key": key} for key in keys]})


@given(bad=st.sets(st.sampled_from(IDS), max_size=len(IDS) - 1))
@settings(deadline=None)
async def test_of_a_refused_batch_all_other_prompts_have_values(bad: set[str]) -> None:
    """Whichever keys are refused, the others are valued in the order asked, and the answer says why some are not."""
    async with remote(ChoosyPriorService(bad)) as priors:
        answer = await priors.values("t", "p", 0, [Prompt(key=key, text="x") for key in IDS], "gp")
    assert [value.key for value in answer.values] == [key for key in IDS if key not in bad]
    assert (bool(answer.detail), answer.degraded) == (bool(bad), False)


async def test_halving_keeps_to_the_deadline_of_one_call_and_keeps_what_was_answered() -> None:
    """When the time is over, the prompts not yet asked have no value, those answered before keep theirs."""
    now = 0.0
    choosy = ChoosyPriorService({"e12"})
    judge = choosy.judge

    def slow(request: httpx.Request) -> httpx.Response:
        nonlocal now
        now += 2.0
        return judge(request)

    choosy.answer = slow
    async with remote(choosy, clock=lambda: now, deadline_s=5.0) as priors:
        answer = await priors.values("t", "p", 0, [Prompt(key=key) for key in IDS], "gp")
    assert [value.key for value in answer.values] == IDS[:6]
    assert "no answer of the prior service" in answer.detail


async def test_one_refused_prompt_costs_only_its_own_group_the_prior(tmp_path: Path) -> None:
    """Of a batch with one bad key that group takes the running mean and the answer says why; the other has its prior."""
    async with (
        remote(ChoosyPriorService({"bad"})) as priors,
        running(tmp_path, fresh_sqlite(tmp_path), priors=priors) as allocator,
    ):
        await allocator.http.post("/v1/runs", json={"run_id": "r", "policy": "p"}, headers=allocator.team)
        groups = [{"group_id": key, "prompt_key": key, "prompt": "x"} for key in ("good", "bad")]
        sent = {"groups": groups}
        answer = (await allocator.http.post("/v1/runs/r/groups/open", json=sent, headers=allocator.team)).json()
        assert [group["prior_source"] for group in answer["groups"]] == ["prior_service", "running_mean"]
        assert answer["degraded"]
        assert answer["detail"].startswith("no prior: ")


@given(bad=st.sets(st.sampled_from(IDS)))
@settings(deadline=None)
async def test_of_a_refused_batch_only_the_refused_rows_are_dropped(bad: set[str]) -> None:
    """Whichever rows are refused, all others are stored, each once; the dropped ones are counted and named, no more."""
    picky, metrics = PickyPriorService(bad), Metrics(CollectorRegistry())
    with capture_logs() as logs:
        async with remote(picky, refused=metrics.evidence_refused.inc) as priors:
            await priors.add_evidence("t", "p", ROWS)
    assert sorted(picky.stored) == sorted(set(IDS) - bad)
    assert metrics.registry.get_sample_value("rollout_budget_evidence_refused_total") == len(bad)
    told = {"event": "evidence refused for good", "log_level": "error", "team": "t", "policy": "p", "code": "id-reused"}
    assert logs == [{**told, "id": name} for name in IDS if name in bad]


async def test_a_row_is_counted_as_refused_once_although_its_delivery_was_cut_off() -> None:
    """Where the service goes away between the halves, the batch stays and nothing is counted until it went through."""
    picky = PickyPriorService({"e0"}, answers=5)
    counted: list[int] = []
    async with remote(picky, refused=counted.append) as priors:
        with pytest.raises(Unavailable):
            await priors.add_evidence("t", "p", ROWS)
        assert (picky.stored, counted) == (["e1", "e2"], [])
        picky.answers = 10_000
        await priors.add_evidence("t", "p", ROWS)
    assert counted == [1]
    assert set(picky.stored) == set(IDS) - {"e0"}


async def test_a_run_goes_on_degraded_while_the_prior_service_is_away(fake: FakePriorService, tmp_path: Path) -> None:
    """Open answers with the running mean and says why; evidence waits and is delivered once the service is back."""
    now = 0.0
    async with (
        remote(fake, clock=lambda: now) as priors,
        running(tmp_path, fresh_sqlite(tmp_path), priors=priors) as allocator,
    ):
        run = {"run_id": "r", "policy": "p", "k_init": 2}
        await allocator.http.post("/v1/runs", json=run, headers=allocator.team)

        async def step(group_id: str) -> dict[str, Any]:
            path = "/v1/runs/r/groups"
            group = {"group_id": group_id}
            opened = await allocator.http.post(
                f"{path}/open", json={"groups": [{**group, "prompt_key": "k"}]}, headers=allocator.team
            )
            for call, body in (("observe", {"outcomes": [1, 0]}), ("close", {"used": 2})):
                sent = {"groups": [{**group, **body}]}
                assert (await allocator.http.post(f"{path}/{call}", json=sent, headers=allocator.team)).is_success
            answer: dict[str, Any] = opened.json()
            return answer

        whole = await step("a")
        assert (whole["groups"][0]["prior"], whole["degraded"]) == (0.75, False)
        await allocator.service.engine.deliver_evidence()
        fake.refuse(503)
        degraded = await step("b")
        assert (degraded["groups"][0]["prior_source"], degraded["degraded"]) == ("running_mean", True)
        assert "unavailable" in degraded["detail"]
        assert await allocator.service.engine.deliver_evidence() == 0
        assert await allocator.waiting() == 1
        assert "rollout_budget_degraded_groups_total 1.0" in (await allocator.http.get("/metrics")).text
        again = {"groups": [{"group_id": one, "prompt_key": "k"} for one in ("b", "c")]}  # one of them was opened
        for _ in range(2):
            answer = await allocator.http.post("/v1/runs/r/groups/open", json=again, headers=allocator.team)
            assert answer.json()["degraded"]
        assert "rollout_budget_degraded_groups_total 2.0" in (await allocator.http.get("/metrics")).text
        now, fake.answer = 1000.0, well
        assert await allocator.service.engine.deliver_evidence() == 1
        assert await allocator.waiting() == 0


async def test_a_worker_works_when_woken_and_goes_on_after_failures() -> None:
    """A round that fails is followed by another; waking does not wait for the pause."""
    rounds: asyncio.Queue[int] = asyncio.Queue()
    count = 0

    async def job() -> None:
        nonlocal count
        count += 1
        rounds.put_nowait(count)
        if count == 1:
            raise Unavailable("not yet")

    worker = Worker("test", job, every_s=0.001)
    worker.start()
    assert [await rounds.get(), await rounds.get()] == [1, 2]
    await worker.stop()
    patient = Worker("test", job, every_s=3600.0)
    patient.start()
    before = await rounds.get()
    patient.wake()
    assert await rounds.get() > before
    await patient.stop()


async def test_a_round_under_way_ends_before_a_worker_does() -> None:
    """Stopping cuts no round off, and no other follows."""
    begun, release = asyncio.Event(), asyncio.Event()
    ended = 0

    async def job() -> None:
        nonlocal ended
        begun.set()
        await release.wait()
        ended += 1

    worker = Worker("test", job, every_s=0.001)
    worker.start()
    await begun.wait()
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)
    release.set()
    await stopping
    assert ended == 1
