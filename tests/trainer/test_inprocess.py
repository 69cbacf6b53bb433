"""Generation in this process keeps the servers' two protocols: versions, log-probabilities, seeds, ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from tests.vllm_server import export_model
from trainer.errors import GenerationFailed, WeightUpdateFailed
from trainer.policy import load_model
from trainer.rollouts.inprocess import InProcessGenerator
from trainer.types import Sampling

PROMPT = (2, 10, 20)


@pytest_asyncio.fixture
async def generator(tmp_path: Path) -> AsyncIterator[InProcessGenerator]:
    made = InProcessGenerator()
    await made.publish(export_model(tmp_path, 1, seed=1), 1)
    yield made
    await made.close()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
async def test_logprobs_are_those_that_tokens_were_drawn_with(
    generator: InProcessGenerator, tmp_path: Path, temperature: float
) -> None:
    """They are the model's own at that temperature; an end-of-sequence token ends a sample and belongs to it."""
    model = load_model(tmp_path / "v1")
    sampling = Sampling(max_tokens=12, temperature=temperature)
    for sample in await generator.generate(PROMPT, count=6, sampling=sampling, version=1, seed=3):
        ids = torch.tensor([[*PROMPT, *sample.token_ids]])
        with torch.no_grad():
            rows = torch.log_softmax(model(ids).logits[0, :-1] / temperature, -1)
        own = rows.gather(-1, ids[0, 1:, None])[len(PROMPT) - 1 :, 0].tolist()
        assert sample.logprobs == pytest.approx(own, abs=1e-4)
        assert (sample.token_ids[-1] == 1) == (sample.finish_reason == "stop")
        assert 1 not in sample.token_ids[:-1]


async def test_seeds_decide_and_temperature_zero_needs_none(generator: InProcessGenerator) -> None:
    async def draw(seed: int, temperature: float) -> list[tuple[int, ...]]:
        sampling = Sampling(max_tokens=6, temperature=temperature)
        samples = await generator.generate(PROMPT, count=4, sampling=sampling, version=1, seed=seed)
        return [sample.token_ids for sample in samples]

    assert await draw(1, 1.0) == await draw(1, 1.0) != await draw(2, 1.0)
    assert len({*await draw(1, 0.0), *await draw(2, 0.0)}) == 1


async def test_a_small_top_p_leaves_only_the_likeliest_token(generator: InProcessGenerator) -> None:
    tiny = await generator.generate(PROMPT, count=8, sampling=Sampling(3, top_p=1e-6), version=1, seed=1)
    best = await generator.generate(PROMPT, count=1, sampling=Sampling(3, temperature=0.0), version=1, seed=1)
    assert {sample.token_ids for sample in tiny} == {best[0].token_ids}
    assert tiny[0].logprobs == pytest.approx((0.0,) * 3, abs=1e-6)
    assert min(best[0].logprobs) < -0.1


async def test_it_follows_publishing_and_refuses_another_version(generator: InProcessGenerator, tmp_path: Path) -> None:
    await generator.publish(export_model(tmp_path, 2, seed=2), 2)
    with pytest.raises(GenerationFailed, match="version 2 is loaded"):
        await generator.generate(PROMPT, count=1, sampling=Sampling(3), version=1, seed=1)
    assert len(await generator.generate(PROMPT, count=3, sampling=Sampling(3), version=2, seed=1)) == 3
    assert (generator.counts.calls, generator.counts.samples) == (1, 3)


async def test_an_incomplete_export_is_refused(generator: InProcessGenerator, tmp_path: Path) -> None:
    with pytest.raises(WeightUpdateFailed, match="not a complete export"):
        await generator.publish(tmp_path, 3)


async def test_a_prompt_that_does_not_fit_the_model_is_refused(generator: InProcessGenerator) -> None:
    """As a server does, and with what to do about it: positions beyond the last were never learned."""
    with pytest.raises(GenerationFailed, match=r"a prompt of 510 tokens leaves no room for 3 more .* 512 positions"):
        await generator.generate((5,) * 510, count=1, sampling=Sampling(3), version=1, seed=1)
    assert await generator.generate((5,) * 509, count=1, sampling=Sampling(3), version=1, seed=1)
