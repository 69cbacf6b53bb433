"""Encoding: batched over concurrent requests, once per text, kept, and never in the way of an answer."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
import pytest

from rollout_budget.errors import Unavailable
from services.prior_api.batching import Batcher
from services.prior_api.heads.base import Float32Array
from services.prior_api.metrics import Metrics
from tests.prior_api.conftest import TEAM_B, Serve
from tests.prior_api.fakes import FakeEncoder, embed


def texts(*names: str) -> dict[tuple[str, str], str]:
    return {("t", f"hash of {name}"): name for name in names}


def submit(batcher: Batcher, *names: str) -> list[asyncio.Future[Float32Array]]:
    return list(batcher.submit(texts(*names)).values())


def question(*keys: str, model: str = "gp") -> dict[str, object]:
    prompts = [{"key": key, "text": f"text of {key}"} for key in keys]
    return {"policy": "m", "version": 0, "prompts": prompts, "model": model}


@pytest.fixture
def batcher(encoder: FakeEncoder) -> Batcher:
    """Batches of at most 4, with little room in the queue."""
    return Batcher(encoder, Metrics(), max_batch=4, max_wait_s=0.05, max_queue=10)


async def test_texts_of_concurrent_requests_share_batches(batcher: Batcher, encoder: FakeEncoder) -> None:
    """Six texts from three callers make two batches, the same text is encoded once, and each gets its own vector."""
    batcher.start()
    futures = [*submit(batcher, "a", "b"), *submit(batcher, "b", "c", "d"), *submit(batcher, "e")]
    vectors = await asyncio.gather(*futures)
    await batcher.stop()
    assert encoder.batches == [["a", "b", "c", "d"], ["e"]]
    for vector, name in zip(vectors, "abbcde", strict=True):
        assert np.array_equal(vector, embed(name))


async def test_the_queue_is_bounded(batcher: Batcher) -> None:
    """What does not fit is refused whole, and nothing of it is queued."""
    submit(batcher, *"abcdefgh")
    with pytest.raises(Unavailable, match="8 texts wait"):
        submit(batcher, *"xyz")
    assert len(submit(batcher, "x", "y")) == 2
    batcher.start()
    await batcher.stop()


async def test_a_failing_batch_fails_alone(batcher: Batcher, encoder: FakeEncoder) -> None:
    """Whoever asked gets the encoder's error; the next batch works."""
    encoder.failure = RuntimeError("broken")
    batcher.start()
    (future,) = submit(batcher, "a")
    with pytest.raises(RuntimeError, match="broken"):
        await future
    encoder.failure = None
    (future,) = submit(batcher, "a")
    assert np.array_equal(await future, embed("a"))
    await batcher.stop()


async def test_each_text_is_encoded_once(client: httpx.AsyncClient, encoder: FakeEncoder) -> None:
    """Ten requests at once and one afterwards, under several keys, encode a text once."""
    await asyncio.gather(*(client.post("/v1/values", json=question("p", "q")) for _ in range(10)))
    same = {"policy": "m", "version": 1, "prompts": [{"key": "other", "text": "text of p"}, {"key": "p"}]}
    assert not (await client.post("/v1/values", json=same)).json()["degraded"]
    assert sorted(encoder.texts) == ["text of p", "text of q"]


async def test_features_survive_a_restart(serve: Serve, encoder: FakeEncoder) -> None:
    """After a restart texts need not be sent again, and are not encoded again."""
    async with serve() as client:
        await client.post("/v1/values", json=question("p"))
    async with serve() as client:
        answer = (await client.post("/v1/values", json=question("p") | {"prompts": [{"key": "p"}]})).json()
    assert not answer["degraded"]
    assert encoder.texts == ["text of p"]


async def test_texts_registered_before_a_crash_are_encoded_when_asked_for(serve: Serve, encoder: FakeEncoder) -> None:
    """A text that was stored but not encoded is encoded by the next question for its key."""
    encoder.failure = RuntimeError("dying")
    async with serve() as client:
        registered = await client.post("/v1/prompts", json={"prompts": [{"key": "p", "text": "text of p"}]})
        assert registered.json() == {"registered": 1, "encoded": 0}
    encoder.failure = None
    async with serve() as client:
        body = question("p") | {"prompts": [{"key": "p"}]}
        assert not (await client.post("/v1/values", json=body)).json()["degraded"]


async def test_a_slow_encoder_does_not_hold_an_answer(serve: Serve, encoder: FakeEncoder) -> None:
    """Beyond the stated wait the answer comes degraded and says why; when the features are there, it is not."""
    encoder.gate.clear()
    async with serve(encode_wait_s=0.02) as client:
        late = (await client.post("/v1/values", json=question("p"))).json()
        encoder.gate.set()
        assert late["degraded"]
        assert "features of 1 of 1 prompts" in late["detail"]
        ahead = {"encoded": 0}
        while not ahead["encoded"]:
            ahead = (await client.post("/v1/prompts", json={"prompts": [{"key": "p"}]})).json()
        assert not (await client.post("/v1/values", json=question("p"))).json()["degraded"]


async def test_controls_do_not_wait_for_the_encoder(serve: Serve, encoder: FakeEncoder) -> None:
    """A question for a control is answered while the encoder hangs, and is not degraded."""
    encoder.gate.clear()
    async with serve() as client:
        for model in ("constant", "running_mean", "history"):
            answer = (await client.post("/v1/values", json=question("p", model=model))).json()
            assert (answer["model"], answer["degraded"]) == (model, False)
        encoder.gate.set()


async def test_batches_are_of_like_length_and_the_oldest_goes_first(batcher: Batcher, encoder: FakeEncoder) -> None:
    """Of all that wait a batch takes the text that came first and its neighbours in length; every text gets its turn."""
    lengths = [9, 1, 8, 2, 7, 3, 10, 4]
    futures = submit(batcher, *("x" * length for length in lengths))
    batcher.start()
    await asyncio.gather(*futures)
    await batcher.stop()
    assert [sorted(map(len, batch)) for batch in encoder.batches] == [[7, 8, 9, 10], [1, 2, 3, 4]]


async def test_a_full_queue_does_not_wait(encoder: FakeEncoder) -> None:
    """With texts for a batch there, and while the encoder works, none waits for more: an hour's patience is not used."""
    batcher = Batcher(encoder, Metrics(), max_batch=4, max_wait_s=3600.0, max_queue=100)
    batcher.start()
    await asyncio.gather(*submit(batcher, *(f"text {place:02}" for place in range(20))))
    await batcher.stop()
    assert [len(batch) for batch in encoder.batches] == [4] * 5


async def test_vectors_are_stored_before_the_service_ends(serve: Serve, encoder: FakeEncoder) -> None:
    """Answers do not wait for the database to have the vectors, a stop does: nothing is encoded twice."""
    many = {"policy": "m", "version": 0, "prompts": [{"key": f"k{i}", "text": f"text {i}"} for i in range(300)]}
    async with serve() as client:
        assert not (await client.post("/v1/values", json=many)).json()["degraded"]
    async with serve() as client:
        assert not (await client.post("/v1/values", json=many)).json()["degraded"]
    assert len(encoder.texts) == 300


async def test_teams_do_not_share_features(serve: Serve, encoder: FakeEncoder) -> None:
    """The same text of two teams is encoded for each: that one has it says nothing to the other."""
    async with serve() as client:
        await client.post("/v1/values", json=question("p"))
        await client.post("/v1/values", json=question("p"), headers={"Authorization": f"Bearer {TEAM_B}"})
    assert encoder.texts == ["text of p"] * 2
