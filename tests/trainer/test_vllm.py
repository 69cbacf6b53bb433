"""Against one real vLLM server: tokens, log-probabilities, versions, counts and failures are what they are said to be."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import torch

from tests.vllm_server import VllmSession, export_model
from trainer.errors import GenerationFailed, WeightUpdateFailed
from trainer.policy import load_model
from trainer.rollouts.pool import Patience, ServerPool
from trainer.rollouts.vllm import VllmServer
from trainer.servers import ServerProcess
from trainer.types import Sample, Sampling
from trainer.weights.check import TOLERANCE, check_logprobs
from trainer.weights.filesystem import FilesystemPublisher

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

PROMPTS = [(2, 10 + place, 20, 30) for place in range(6)]
SAMPLING = Sampling(max_tokens=8)


@pytest_asyncio.fixture
async def pool(vllm: ServerProcess) -> AsyncIterator[ServerPool]:
    made = ServerPool([VllmServer(vllm.url, prompts_per_call=4, calls=2)], Patience(look_s=0.1))
    yield made
    await made.close()


async def publish(pool: ServerPool, root: Path, version: int, seed: int) -> Path:
    directory = export_model(root, version, seed)
    await FilesystemPublisher(pool).publish(directory, version)
    return directory


async def draw(pool: ServerPool, version: int, count: int = 4) -> list[tuple[Sequence[int], Sample]]:
    drawn = await asyncio.gather(
        *(pool.generate(prompt, count=count, sampling=SAMPLING, version=version, seed=0) for prompt in PROMPTS)
    )
    return [(prompt, sample) for prompt, samples in zip(PROMPTS, drawn, strict=True) for sample in samples]


def scores(
    directory: Path, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], temperature: float = 1.0
) -> list[list[float]]:
    """Log-probabilities by transformers, one sequence at a time."""
    model = load_model(directory).eval()
    found = []
    for prompt, completion in pairs:
        ids = torch.tensor([[*prompt, *completion]])
        with torch.no_grad():
            rows = torch.log_softmax(model(ids).logits[0, :-1] / temperature, -1)
        found.append(rows.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :, 0].tolist())
    return found


async def test_tokens_and_logprobs_are_those_of_transformers_before_and_after_an_update(
    pool: ServerPool, tmp_path: Path
) -> None:
    """The publisher brings new weights: the same prompts then have the new model's log-probabilities, to 1e-4."""
    for version, seed in ((1, 1), (2, 2)):
        directory = await publish(pool, tmp_path, version, seed)
        drawn = await draw(pool, version)
        worst = check_logprobs(drawn, partial(scores, directory), tolerance=1e-4)
        assert 0.0 < worst < 1e-4
        assert {sample.version for _, sample in drawn} == {version}
        for _, sample in drawn:
            assert (sample.token_ids[-1] == 1) == (sample.finish_reason == "stop")
            assert 1 <= len(sample.token_ids) <= SAMPLING.max_tokens
    with pytest.raises(WeightUpdateFailed, match="not the same weights"):
        check_logprobs(drawn, partial(scores, tmp_path / "v1"), tolerance=TOLERANCE["float32"])


async def test_logprobs_include_the_temperature(pool: ServerPool, tmp_path: Path) -> None:
    """What the learner divides its logits by is what the server drew with."""
    directory = await publish(pool, tmp_path, 11, 11)
    sampling = Sampling(max_tokens=8, temperature=0.5)
    samples = await pool.generate(PROMPTS[0], count=4, sampling=sampling, version=11, seed=0)
    pairs = [(PROMPTS[0], sample) for sample in samples]
    assert check_logprobs(pairs, partial(scores, directory, temperature=0.5), tolerance=1e-4) > 0.0
    with pytest.raises(WeightUpdateFailed, match="another temperature"):
        check_logprobs(pairs, partial(scores, directory), tolerance=TOLERANCE["float32"])


async def test_sampling_follows_the_policy_and_siblings_differ(pool: ServerPool, tmp_path: Path) -> None:
    """Mean log-probability of first tokens over 512 draws is minus the entropy, within five standard errors."""
    directory = await publish(pool, tmp_path, 3, 3)
    samples = await pool.generate(PROMPTS[0], count=512, sampling=Sampling(max_tokens=1), version=3, seed=0)
    with torch.no_grad():
        row = torch.log_softmax(load_model(directory).eval()(torch.tensor([PROMPTS[0]])).logits[0, -1], -1)
    mean = float((row.exp() * row).sum())
    spread = math.sqrt(float((row.exp() * (row - mean) ** 2).sum()) / 512)
    assert abs(sum(sample.logprobs[0] for sample in samples) / 512 - mean) < 5 * spread
    assert len({sample.token_ids for sample in samples}) > 30


async def test_a_seed_brings_the_same_samples_again(vllm: ServerProcess, pool: ServerPool, tmp_path: Path) -> None:
    await publish(pool, tmp_path, 4, 4)
    server = VllmServer(vllm.url)
    first, other, again = [
        await server.generate(PROMPTS[0], count=4, sampling=SAMPLING, version=4, seed=seed) for seed in (5, 500, 5)
    ]
    await server.close()
    assert [sample.token_ids for sample in first] == [sample.token_ids for sample in again]
    assert [sample.token_ids for sample in first] != [sample.token_ids for sample in other]


async def test_another_version_is_refused(pool: ServerPool, tmp_path: Path) -> None:
    await publish(pool, tmp_path, 5, 5)
    with pytest.raises(GenerationFailed, match="'5', not '4'"):
        await pool.generate(PROMPTS[0], count=1, sampling=SAMPLING, version=4, seed=0)
    assert pool.counts.samples == 0


async def test_counts_equal_those_of_the_server(pool: ServerPool, tmp_path: Path) -> None:
    """`request_success_total` counts completions, not calls: it grows by exactly the samples that were taken."""
    await publish(pool, tmp_path, 6, 6)
    before = await pool.finished_requests()
    await draw(pool, 6, count=5)
    assert pool.counts.samples == 5 * len(PROMPTS)
    assert pool.counts.calls < len(PROMPTS)
    assert await pool.finished_requests() - before == pool.counts.samples


async def test_an_unreadable_export_is_said_and_the_next_one_mends_it(pool: ServerPool, tmp_path: Path) -> None:
    broken = export_model(tmp_path, 7, 7)
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightUpdateFailed, match="version 7"):
        await FilesystemPublisher(pool).publish(broken, 7)
    directory = await publish(pool, tmp_path, 8, 8)
    assert pool.in_service == 1
    check_logprobs(await draw(pool, 8), partial(scores, directory), tolerance=1e-4)


async def test_an_update_that_nobody_finished_is_ended(pool: ServerPool, vllm: ServerProcess, tmp_path: Path) -> None:
    async with httpx.AsyncClient(base_url=vllm.url) as other_trainer:
        (await other_trainer.post("/start_weight_update")).raise_for_status()
    directory = await publish(pool, tmp_path, 9, 9)
    check_logprobs(await draw(pool, 9), partial(scores, directory), tolerance=1e-4)


async def test_a_server_killed_while_generating_fails_in_bounded_time(
    pool: ServerPool, vllm_session: VllmSession, tmp_path: Path
) -> None:
    """G23, in part: SIGKILL in the middle of a generation; nothing of it counts, and the error comes at the deadline."""
    await publish(pool, tmp_path, 10, 10)
    patient = ServerPool([VllmServer(url) for url in pool.urls], Patience(attempts=2, deadline_s=5.0, look_s=0.1))
    under_way = asyncio.ensure_future(
        patient.generate(PROMPTS[0], count=64, sampling=Sampling(max_tokens=450), version=10, seed=0)
    )
    async with httpx.AsyncClient(base_url=pool.urls[0]) as client:
        while 'num_requests_running{engine="0",model_name="policy"} 0.0' in (await client.get("/metrics")).text:
            assert not under_way.done()
    began = time.monotonic()
    vllm_session.kill()
    with pytest.raises(GenerationFailed):
        await under_way
    assert time.monotonic() - began < 20
    assert patient.counts.samples == 0
    await patient.close()
