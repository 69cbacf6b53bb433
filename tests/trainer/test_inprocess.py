"""Generation in this process keeps the servers' two protocols: versions, log-probabilities, seeds, ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from tests.vllm_server import export_model
from trainer.errors import GenerationFailed, WeightUpdateFailed
from trainer.policy import load_model
from trainer.rollouts import inprocess
from trainer.rollouts.inprocess import InProcessGenerator
from trainer.types import Sample, Sampling

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


async def test_it_follows_publishing_and_refuses_a_version_to_come(
    generator: InProcessGenerator, tmp_path: Path
) -> None:
    """Whoever asks for a version gets it or a later one, and is told which."""
    await generator.publish(export_model(tmp_path, 2, seed=2), 2)
    with pytest.raises(GenerationFailed, match="version 2 is loaded"):
        await generator.generate(PROMPT, count=1, sampling=Sampling(3), version=3, seed=1)
    older, newer = [
        await generator.generate(PROMPT, count=3, sampling=Sampling(3), version=version, seed=1) for version in (1, 2)
    ]
    assert older == newer
    assert [sample.version for sample in older] == [2] * 3
    assert (generator.counts.calls, generator.counts.samples) == (2, 6)


async def test_an_incomplete_export_is_refused(generator: InProcessGenerator, tmp_path: Path) -> None:
    with pytest.raises(WeightUpdateFailed, match="not a complete export"):
        await generator.publish(tmp_path, 3)


async def test_a_prompt_that_does_not_fit_the_model_is_refused(generator: InProcessGenerator) -> None:
    """As a server does, and with what to do about it: positions beyond the last were never learned."""
    with pytest.raises(GenerationFailed, match=r"a prompt of 510 tokens leaves no room for 3 more .* 512 positions"):
        await generator.generate((5,) * 510, count=1, sampling=Sampling(3), version=1, seed=1)
    assert await generator.generate((5,) * 509, count=1, sampling=Sampling(3), version=1, seed=1)


async def _draw(generator: InProcessGenerator, lengths: range, *, together: bool) -> list[list[Sample]]:
    """Draw three samples of a prompt of each length, in one batch or one after the other."""
    asked = [
        generator.generate(
            tuple(range(2, 2 + length)), count=3, sampling=Sampling(16, temperature=1.3), version=1, seed=length
        )
        for length in lengths
    ]
    return await asyncio.gather(*asked) if together else [await one for one in asked]


@pytest.mark.parametrize("most_tokens", [inprocess.MOST_TOKENS, 200])
async def test_a_group_draws_the_same_alone_as_among_others(
    generator: InProcessGenerator, monkeypatch: pytest.MonkeyPatch, most_tokens: int
) -> None:
    """Padding, the cache that ended rows leave, and the cut into batches change neither tokens nor probabilities."""
    forwards = []
    generator._model.register_forward_pre_hook(lambda *_: forwards.append(1))
    alone = await _draw(generator, range(1, 9), together=False)
    cost = len(forwards)
    monkeypatch.setattr(inprocess, "MOST_TOKENS", most_tokens)
    among = await _draw(generator, range(1, 9), together=True)
    assert len(forwards) - cost < cost / 2
    for one, other in zip(chain(*alone), chain(*among), strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert len({sample.token_ids for group in alone for sample in group}) > len(alone)


async def test_one_prompt_that_does_not_fit_spares_the_others(generator: InProcessGenerator) -> None:
    asked = [
        generator.generate((5,) * length, count=2, sampling=Sampling(4), version=1, seed=1) for length in (3, 510, 4)
    ]
    first, second, third = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(second, GenerationFailed)
    assert isinstance(first, list)
    assert isinstance(third, list)
    assert (len(first), len(third)) == (2, 2)


async def test_a_caller_that_cancels_has_drawn_nothing(generator: InProcessGenerator) -> None:
    """Its samples count nowhere, and those of the others in its batch do."""
    gone, kept = (
        asyncio.create_task(generator.generate(PROMPT, count=2, sampling=Sampling(4), version=1, seed=seed))
        for seed in (1, 2)
    )
    await asyncio.sleep(0)
    gone.cancel()
    assert len(await kept) == 2
    assert gone.cancelled()
    assert (generator.counts.calls, generator.counts.samples) == (1, 2)


async def test_new_weights_of_the_same_shape_answer_as_if_loaded_anew(
    generator: InProcessGenerator, tmp_path: Path
) -> None:
    """Weights are copied into the model at hand; the tokenizer and the shape are looked at, not assumed."""
    before = generator._model
    export = export_model(tmp_path, 2, seed=2)
    await generator.publish(export, 2)
    fresh = InProcessGenerator()
    await fresh.publish(export, 2)
    drawn, expected = [
        await one.generate(PROMPT, count=4, sampling=Sampling(6), version=2, seed=5) for one in (generator, fresh)
    ]
    await fresh.close()
    assert drawn == expected
    assert generator._model is before
