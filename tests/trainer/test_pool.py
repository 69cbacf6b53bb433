"""The pool under load, cancellation, stalls, and weights that change under way; against servers in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.trainer.fake_vllm import FakeVllm
from trainer.errors import GenerationFailed, TrainerError, WeightUpdateFailed
from trainer.rollouts.continuation import MOST_PARTS
from trainer.rollouts.gate import Gate
from trainer.rollouts.pool import Patience, ServerPool
from trainer.rollouts.vllm import VllmServer
from trainer.types import Sample, Sampling
from trainer.weights.filesystem import load_weights

SAMPLING = Sampling(max_tokens=8)
QUICK = Patience(attempts=3, deadline_s=5.0, pause_s=0.001, look_s=0.001, watch_s=0.001)
CALL = "/v1/completions"


def draw(
    source: ServerPool | VllmServer, *prompt: int, count: int = 2, version: int = 0
) -> asyncio.Future[list[Sample]]:
    return asyncio.ensure_future(source.generate(prompt, count=count, sampling=SAMPLING, version=version, seed=7))


class Hold:
    """A hook that tells when a request has come and keeps it until it is released, or cancelled."""

    def __init__(self, fake: FakeVllm, path: str = CALL) -> None:
        self.come = asyncio.Event()
        self.free = asyncio.Event()
        self.cancelled = 0
        fake.hooks[path] = self

    async def __call__(self, _body: dict[str, Any]) -> None:
        self.come.set()
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def test_a_server_of_twice_the_weight_gets_twice_the_completions() -> None:
    fakes = [FakeVllm(), FakeVllm()]
    holds = [Hold(fake) for fake in fakes]
    clients = [fake.client(f"http://{place}") for place, fake in enumerate(fakes)]
    pool = ServerPool(clients, QUICK, weights=[2.0, 1.0])
    drawing = [draw(pool, prompt) for prompt in range(30)]
    for hold in holds:
        await hold.come.wait()
        hold.free.set()
    await asyncio.gather(*drawing)
    assert [len(fake.bodies) for fake in fakes] == [20, 10]
    await pool.close()


async def test_a_large_group_weighs_more_than_a_small_one() -> None:
    fakes = [FakeVllm(), FakeVllm()]
    holds = [Hold(fake) for fake in fakes]
    pool = ServerPool([fake.client(f"http://{place}") for place, fake in enumerate(fakes)], QUICK)
    drawing = [draw(pool, 1, count=16), *(draw(pool, prompt, count=2) for prompt in range(2, 8))]
    for hold in holds:
        await hold.come.wait()
        hold.free.set()
    await asyncio.gather(*drawing)
    assert [len(fake.bodies) for fake in fakes] == [1, 6]
    await pool.close()


async def test_a_call_that_nobody_waits_for_is_cancelled_on_the_server_and_counts_nothing() -> None:
    fake = FakeVllm()
    hold = Hold(fake)
    pool = ServerPool([fake.client(calls=1)], QUICK)
    drawing = draw(pool, 1, count=4)
    await hold.come.wait()
    drawing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drawing
    hold.free.set()
    assert len(await draw(pool, 2)) == 2  # the only place for a call is free again
    assert hold.cancelled == 1
    assert (pool.counts.samples, pool.counts.cancelled) == (2, 4)
    assert await pool.finished_requests() == 2
    await pool.close()


async def test_a_shared_call_goes_on_for_those_who_still_wait() -> None:
    fake = FakeVllm()
    hold = Hold(fake)
    pool = ServerPool([fake.client(calls=1, prompts_per_call=4)], QUICK)
    drawing = [draw(pool, prompt) for prompt in range(3)]
    await hold.come.wait()
    drawing[1].cancel()
    hold.free.set()
    ends = await asyncio.gather(*drawing, return_exceptions=True)
    assert [isinstance(end, asyncio.CancelledError) for end in ends] == [False, True, False]
    assert (hold.cancelled, len(fake.bodies)) == (0, 1)
    counts = pool.counts
    assert (counts.samples, counts.cancelled) == (4, 2)
    assert counts.samples + counts.discarded <= await pool.finished_requests() <= counts.samples + counts.cancelled
    await pool.close()


async def test_prompts_of_a_server_that_stalls_go_elsewhere() -> None:
    stalled, good = FakeVllm(), FakeVllm()
    hold = Hold(stalled)
    pool = ServerPool([stalled.client("http://stalled"), good.client("http://good")], QUICK)
    drawing = draw(pool, 1)
    await hold.come.wait()
    stalled.failures["/health"] = [httpx.ReadTimeout("stalled")] * 10_000
    assert len(await drawing) == 2
    assert (hold.cancelled, pool.in_service, len(good.bodies)) == (1, 1, 1)
    await pool.close()


async def test_calls_wait_at_a_closed_gate_and_it_is_empty_once_the_last_has_left() -> None:
    gate = Gate()
    left = asyncio.Event()

    async def visit() -> None:
        async with gate.passing():
            await left.wait()

    inside = asyncio.ensure_future(visit())
    await asyncio.sleep(0)
    gate.close()
    late = asyncio.ensure_future(visit())
    assert not await gate.is_empty(0.001)
    left.set()
    assert await gate.is_empty(1.0)
    assert (inside.done(), late.done()) == (True, False)
    gate.open()
    await late


class Cutting:
    """Answers each call with tokens that name the weights they were drawn under; a pause cuts what is under way.

    A completion ends by itself after `length` tokens, all children of a call together.
    """

    def __init__(self, fake: FakeVllm, length: int) -> None:
        self.fake = fake
        self.length = length
        self.calls = 0
        self.under_way: set[asyncio.Event] = set()
        self.begun = asyncio.Event()
        fake.hooks = {CALL: self.complete, "/pause": self.cut, "/abort_requests": self.cut}

    async def cut(self, _body: dict[str, Any]) -> None:
        for call in self.under_way:
            call.set()

    async def complete(self, body: dict[str, Any]) -> httpx.Response:
        self.calls += 1
        self.fake.bodies.append(body)
        version, cut = int(self.fake.version), asyncio.Event()
        drawn = len(body["prompt"][0]) - 1
        rest = min(self.length - drawn, body["max_tokens"])
        if rest > 1:
            self.under_way.add(cut)
            self.begun.set()
            await cut.wait()
            self.under_way.discard(cut)
        reason = "abort" if rest > 1 else "stop"
        choices = [
            {
                "index": child,
                "text": str(version),
                "token_ids": [version],
                "logprobs": {"token_logprobs": [-float(version)]},
                "finish_reason": reason,
            }
            for child in range(body["n"])
        ]
        self.fake.finished[reason] += body["n"]
        return httpx.Response(200, json={"choices": choices})


async def test_a_completion_goes_on_under_each_new_version(tmp_path: Path) -> None:
    """A token per version, each with its own log-probability; calls of continuations ask for what is left, alone."""
    fake = FakeVllm(version="1")
    cutting = Cutting(fake, length=4)
    pool = ServerPool([fake.client()], QUICK, continues=True)
    drawing = draw(pool, 9, count=2, version=1)
    for version in (2, 3, 4):
        await cutting.begun.wait()
        cutting.begun.clear()

        async def bring(server: VllmServer, version: int = version) -> None:
            await load_weights(server, tmp_path / f"v{version}", version, drain=True)

        assert await pool.update(bring) == {}
    assert await drawing == [Sample((1, 2, 3, 4), (-1.0, -2.0, -3.0, -4.0), "1234", "stop", 1, (1, 2, 3, 4))] * 2
    first, *later = fake.bodies
    assert (first["n"], first["max_tokens"], first["seed"]) == (2, 8, 7)
    assert {body["n"] for body in later} == {1}
    assert sorted((body["prompt"][0], body["max_tokens"]) for body in later) == sorted(
        [([9, *range(1, count + 1)], 8 - count) for count in (1, 2, 3)] * 2
    )
    assert len({body["seed"] for body in fake.bodies}) == 7
    assert (pool.counts.samples, pool.counts.tokens, pool.counts.aborted) == (2, 8, 6)
    assert await pool.finished_requests() == 2
    await pool.close()


async def test_what_reached_a_paused_server_is_aborted_until_none_is_left(tmp_path: Path) -> None:
    """A call that comes just after the pause queues in the engine; the abort is repeated, so that weights can change."""
    fake = FakeVllm(version="1")
    cutting = Cutting(fake, length=3)
    pauses: list[int] = []

    async def pause_too_early(_body: dict[str, Any]) -> None:
        pauses.append(len(cutting.under_way))

    fake.hooks["/pause"] = pause_too_early
    pool = ServerPool([fake.client()], QUICK, continues=True)
    drawing = draw(pool, 9, count=1, version=1)
    await cutting.begun.wait()

    async def bring(server: VllmServer) -> None:
        await load_weights(server, tmp_path / "v2", 2, drain=True)

    assert await pool.update(bring) == {}
    assert pauses == [1]
    assert "/abort_requests" in fake.paths
    assert fake.paths.index("/abort_requests") < fake.paths.index("/update_weights") < fake.paths.index("/resume")
    drawing.cancel()
    await pool.close()


async def test_no_call_begins_while_weights_change(tmp_path: Path) -> None:
    fake = FakeVllm(version="1")
    pool = ServerPool([fake.client()], QUICK, continues=True)
    hold = Hold(fake, "/update_weights")

    async def bring(server: VllmServer) -> None:
        await load_weights(server, tmp_path / "v2", 2, drain=True)

    updating = asyncio.ensure_future(pool.update(bring))
    await hold.come.wait()
    drawing = draw(pool, 5, version=1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert CALL not in fake.paths
    hold.free.set()
    assert [sample.version for sample in await drawing] == [2, 2]
    assert await updating == {}
    await pool.close()


async def test_a_failed_update_lets_callers_go_to_another_server(tmp_path: Path) -> None:
    bad, good = FakeVllm(version="1"), FakeVllm(version="1")
    pool = ServerPool([bad.client("http://bad"), good.client("http://good")], QUICK, continues=True)
    bad.failures["/update_weights"] = [500] * 10_000

    async def bring(server: VllmServer) -> None:
        await load_weights(server, tmp_path / "v2", 2, drain=True)

    failures = await pool.update(bring)
    assert set(failures) == {"http://bad"}
    assert [sample.version for sample in await draw(pool, 5, version=1)] == [2, 2]
    assert (bad.paused, pool.in_service) == (False, 1)
    await pool.close()


async def test_siblings_of_a_completion_that_cannot_go_on_are_not_returned() -> None:
    """One of two was cut off and its continuation is refused: the group fails, and the finished one is discarded."""
    fake = FakeVllm()

    async def cut_one(body: dict[str, Any]) -> httpx.Response:
        if body["n"] == 1:
            return httpx.Response(400, text="too long")
        choices = fake.choices(body)
        choices[0]["finish_reason"] = "abort"
        fake.finished["stop"] -= 1
        return httpx.Response(200, json={"choices": choices})

    fake.hooks[CALL] = cut_one
    pool = ServerPool([fake.client()], QUICK, continues=True)
    with pytest.raises(GenerationFailed, match="too long"):
        await draw(pool, 1)
    assert (pool.counts.samples, pool.counts.discarded, pool.counts.tokens) == (0, 1, 0)
    assert await pool.finished_requests() == pool.counts.samples + pool.counts.discarded
    await pool.close()


async def test_a_completion_that_is_cut_each_time_is_given_up() -> None:
    fake = FakeVllm()

    async def cut(body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(
            200,
            json={"choices": [{**choice, "token_ids": [], "logprobs": None} for choice in fake.choices(body, "abort")]},
        )

    fake.hooks[CALL] = cut
    pool = ServerPool([fake.client()], QUICK, continues=True)
    with pytest.raises(GenerationFailed, match="before a completion was finished"):
        await draw(pool, 1, count=1)
    assert fake.paths.count(CALL) == MOST_PARTS
    assert pool.counts.samples == 0
    await pool.close()


async def test_servers_updated_in_one_go_include_all_that_answer_and_later_each_that_comes_back() -> None:
    fakes = [FakeVllm(), FakeVllm()]
    fakes[1].failures["/health"] = [httpx.ConnectError("away")]
    pool = ServerPool([fake.client(f"http://{place}") for place, fake in enumerate(fakes)], QUICK)
    brought: list[list[str]] = []
    everybody = asyncio.Event()

    async def bring(servers: Sequence[VllmServer]) -> dict[str, TrainerError]:
        brought.append([server.url for server in servers])
        if len(brought) == 2:
            return {"http://1": WeightUpdateFailed("not yet")}
        if len(brought) == 3:
            everybody.set()
        return {}

    assert set(await pool.update_together(bring)) == {"http://1"}
    await everybody.wait()
    assert brought == [["http://0"], ["http://1"], ["http://1"]]
    await pool.close()


async def test_calls_one_after_the_other_share_a_connection() -> None:
    """Twenty calls with their looks at the version go over two connections at most, on a real socket."""
    fake, connections = FakeVllm(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while head := await _head(reader):
            method, path = head[0].split()[:2]
            sizes = [int(line.split(":")[1]) for line in head if line.lower().startswith("content-length")]
            body = await reader.readexactly(sum(sizes))
            answer = await fake.handle(httpx.Request(method, f"http://fake{path}", content=body))
            lines = ["HTTP/1.1 200 OK", "content-type: application/json", f"content-length: {len(answer.content)}"]
            writer.write("\r\n".join([*lines, "", ""]).encode() + answer.content)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as listening:
        host, port = listening.sockets[0].getsockname()
        pool = ServerPool([VllmServer(f"http://{host}:{port}")])
        for prompt in range(20):
            assert len(await draw(pool, prompt)) == 2
        await pool.close()
    assert fake.paths.count(CALL) == 20
    assert connections <= 2


async def _head(reader: asyncio.StreamReader) -> list[str]:
    """Read a request up to its empty line; nothing where the client has left."""
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    except asyncio.IncompleteReadError:
        return []
