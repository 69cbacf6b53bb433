"""Rollouts: every sample counted once and under its version; servers may fail, answers stay whole."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import Any

import httpx
import pytest

from tests.trainer.fake_vllm import FakeVllm
from trainer.errors import GenerationFailed
from trainer.rollouts.pool import Patience, ServerPool
from trainer.rollouts.vllm import CallFailed, ServerUnusable, VllmServer
from trainer.types import Sample, Sampling

SAMPLING = Sampling(max_tokens=8, temperature=0.7, top_p=0.9)
QUICK = Patience(attempts=3, deadline_s=5.0, pause_s=0.001, look_s=0.001)


def draw(
    source: VllmServer | ServerPool, *prompt: int, count: int = 2, version: int = 0, seed: int = 7
) -> Awaitable[list[Sample]]:
    return source.generate(prompt, count=count, sampling=SAMPLING, version=version, seed=seed)


async def test_a_call_says_everything_explicitly() -> None:
    fake = FakeVllm()
    samples = await draw(fake.client(), 5, 6)
    assert samples == [Sample((5, 6), (-0.5, -0.5), "56", "stop", 0)] * 2
    (body,) = fake.bodies
    assert body.pop("request_id")
    assert body == {
        "model": "policy",
        "prompt": [[5, 6]],
        "n": 2,
        "max_tokens": 8,
        "temperature": 0.7,
        "top_p": 0.9,
        "logprobs": 0,
        "return_token_ids": True,
        "cache_salt": "0",
        "seed": 7,
    }


async def test_prompts_share_calls_when_asked_to_and_get_their_own_samples_back() -> None:
    fake = FakeVllm()
    server = fake.client(prompts_per_call=16, calls=2)
    answers = await asyncio.gather(*(draw(server, prompt, count=2 + prompt % 2) for prompt in range(64)))
    for prompt, samples in enumerate(answers):
        assert [sample.token_ids for sample in samples] == [(prompt,)] * (2 + prompt % 2)
    assert len(fake.bodies) == 4
    assert not any("seed" in body for body in fake.bodies)
    assert server.counts.samples == sum(fake.finished.values()) == await server.finished_requests()


async def test_one_look_at_the_version_serves_a_burst() -> None:
    fake = FakeVllm()
    server = fake.client()
    await asyncio.gather(*(draw(server, prompt) for prompt in range(100)))
    assert fake.paths.count("/v1/completions") == 100
    assert fake.paths.count("/weight_info") < 20


async def test_nothing_is_sampled_from_a_server_at_another_version() -> None:
    fake = FakeVllm(version="3")
    with pytest.raises(ServerUnusable, match="'3', not '4'"):
        await draw(fake.client(), 1, version=4)
    assert not fake.bodies


async def test_a_version_that_changed_under_way_discards_the_samples() -> None:
    fake = FakeVllm()

    async def change(_body: dict[str, Any]) -> None:
        fake.version = "1"

    fake.hooks["/v1/completions"] = change
    server = fake.client()
    with pytest.raises(ServerUnusable, match="'1', not '0'"):
        await draw(server, 1)
    assert (server.counts.samples, server.counts.discarded) == (0, 2)
    assert await server.finished_requests() == server.counts.samples + server.counts.discarded


async def test_an_aborted_completion_never_counts_nor_do_its_siblings() -> None:
    fake = FakeVllm()

    async def abort(body: dict[str, Any]) -> httpx.Response:
        choices = fake.choices(body)
        choices[0]["finish_reason"] = "abort"
        return httpx.Response(200, json={"choices": choices})

    fake.hooks["/v1/completions"] = abort
    server = fake.client()
    with pytest.raises(CallFailed, match="abort"):
        await draw(server, 1, count=4)
    assert (server.counts.samples, server.counts.discarded) == (0, 3)


async def test_a_refused_prompt_does_not_take_others_of_its_call_with_it() -> None:
    fake = FakeVllm()

    async def refuse(body: dict[str, Any]) -> httpx.Response | None:
        return httpx.Response(400, text="too long") if [13] in body["prompt"] else None

    fake.hooks["/v1/completions"] = refuse
    server = fake.client(prompts_per_call=4, calls=1)
    answers = await asyncio.gather(*(draw(server, prompt) for prompt in (11, 12, 13)), return_exceptions=True)
    assert [isinstance(answer, list) for answer in answers] == [True, True, False]
    assert "too long" in str(answers[2])


async def test_a_busy_server_is_asked_again() -> None:
    fake = FakeVllm()
    fake.failures["/v1/completions"] = [503, 503]
    pool = ServerPool([fake.client()], QUICK)
    assert len(await draw(pool, 1)) == 2
    assert pool.in_service == 1
    assert (pool.counts.calls, pool.counts.failed, pool.counts.samples) == (1, 2, 2)
    await pool.close()


async def test_a_refused_request_is_not_repeated() -> None:
    fake = FakeVllm()
    fake.failures["/v1/completions"] = [400]
    pool = ServerPool([fake.client()], QUICK)
    with pytest.raises(GenerationFailed, match="400"):
        await draw(pool, 1)
    assert fake.paths.count("/v1/completions") == 1
    await pool.close()


async def test_a_failed_server_is_left_out_and_the_other_takes_over() -> None:
    first, second = FakeVllm(), FakeVllm()
    first.failures["/v1/completions"] = [httpx.ReadError("gone")]
    first.failures["/health"] = [httpx.ConnectError("gone")] * 10_000
    pool = ServerPool([first.client("http://first"), second.client("http://second")], QUICK)
    answers = await asyncio.gather(*(draw(pool, prompt) for prompt in range(10)))
    assert [answer[0].token_ids for answer in answers] == [(prompt,) for prompt in range(10)]
    assert pool.in_service == 1
    assert pool.counts.samples == 20 == await pool.finished_requests()
    await pool.close()


async def test_a_server_comes_back_only_when_it_has_caught_up() -> None:
    fake = FakeVllm()
    pool = ServerPool([fake.client()], QUICK)
    caught_up, tries = asyncio.Event(), 0

    async def bring(_server: VllmServer) -> None:
        nonlocal tries
        tries += 1
        if tries == 2:  # the first look after the failure
            raise GenerationFailed("not yet")
        if tries == 3:
            caught_up.set()

    assert await pool.update(bring) == {}
    fake.failures["/v1/completions"] = [500]
    assert len(await draw(pool, 1)) == 2
    assert caught_up.is_set()
    await pool.close()


async def test_prompts_go_to_the_server_with_the_fewest_under_way() -> None:
    fakes = [FakeVllm(), FakeVllm(), FakeVllm()]
    pool = ServerPool([fake.client(f"http://{place}") for place, fake in enumerate(fakes)], QUICK)
    await asyncio.gather(*(draw(pool, prompt) for prompt in range(30)))
    assert [len(fake.bodies) for fake in fakes] == [10, 10, 10]
    await pool.close()


async def test_a_server_that_stays_away_is_waited_for_no_longer_than_the_deadline() -> None:
    fake = FakeVllm()
    fake.failures["/v1/completions"] = fake.failures["/health"] = [httpx.ConnectError("gone")] * 10_000
    pool = ServerPool([fake.client()], Patience(attempts=3, deadline_s=0.05, look_s=0.001))
    with pytest.raises(GenerationFailed, match="within"):
        await draw(pool, 1)
    await pool.close()


async def test_a_server_that_breaks_each_time_is_given_up_after_all_attempts() -> None:
    fake = FakeVllm()
    fake.failures["/v1/completions"] = [500] * 10
    pool = ServerPool([fake.client()], QUICK)
    with pytest.raises(GenerationFailed, match=r"after 3 calls.*500 injected"):
        await draw(pool, 1)
    assert fake.paths.count("/v1/completions") == QUICK.attempts
    await pool.close()


async def test_closing_ends_what_waits() -> None:
    fake = FakeVllm()
    begun = asyncio.Event()

    async def hang(_body: dict[str, Any]) -> None:
        begun.set()
        await asyncio.sleep(math.inf)

    fake.hooks["/v1/completions"] = hang
    pool = ServerPool([fake.client(calls=1)], QUICK)
    waiting = [asyncio.ensure_future(draw(pool, prompt)) for prompt in range(3)]
    await begun.wait()
    await pool.close()
    assert all(
        isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*waiting, return_exceptions=True)
    )
