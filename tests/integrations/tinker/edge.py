"""Tinker's service as its client shows it, answered by a coin: the edge of the network, and nothing inside it.

Types are tinker's own. Weights are a number that an optimiser step raises.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import numpy as np
import tinker
import torch

STOP = "\n\nUser:"


class Characters:
    """A tokenizer of one token for each character."""

    name_or_path = "characters"
    bos_token = ""
    eos_token_id = 0

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return code points."""
        assert not add_special_tokens
        return [ord(letter) for letter in text]

    def decode(self, tokens: int | Sequence[int]) -> str:
        """Return the text."""
        return chr(tokens) if isinstance(tokens, int) else "".join(map(chr, tokens))


class Sampler:
    """Samples of one version of the weights."""

    def __init__(self, chance: Callable[[str], float], coin: np.random.Generator) -> None:
        self._chance = chance
        self._coin = coin

    async def sample(self, prompt: tinker.ModelInput, num_samples: int, sampling_params: Any) -> Any:  # noqa: ARG002
        """Answer yes by chance; raise where the chance is negative, as a broken connection would."""
        assert num_samples == 1
        await asyncio.sleep(0)
        chance = self._chance(Characters().decode(prompt.to_ints()))
        if chance < 0:
            raise ConnectionError("the sampler is away")
        tokens = Characters().encode(("yes" if self._coin.random() < chance else "no") + STOP)
        drawn = {"tokens_np": np.array(tokens), "logprobs_np": np.full(len(tokens), -0.5)}
        sequence = tinker.SampledSequence(stop_reason="stop", sequence_id=uuid.uuid4().hex, **drawn)
        return tinker.SampleResponse(sequences=[sequence])


class Trainer:
    """A training client; keeps what it was given to learn from."""

    def __init__(self, service: type[Service]) -> None:
        self._service = service

    async def save_weights_and_get_sampling_client(self, **_: Any) -> Sampler:
        """Return samples of the weights as they are, each time by a new client."""
        return Sampler(self._service.chance, self._service.coin)

    async def forward_backward(self, data: list[tinker.Datum], **_: Any) -> Any:
        """Return log-probabilities as they were sampled."""
        self._service.learned.append([_summary(datum) for datum in data])
        logprobs = [{"logprobs": datum.loss_fn_inputs["logprobs"]} for datum in data]
        return SimpleNamespace(loss_fn_outputs=logprobs, metrics={})

    async def optim_step(self, _: Any) -> Any:
        """Return nothing of interest."""
        return SimpleNamespace(metrics={})

    def save_state(self, name: str, **_: Any) -> asyncio.Future[Any]:
        """Return a path."""
        return _saved(name)

    def save_weights_for_sampler(self, name: str, **_: Any) -> asyncio.Future[Any]:
        """Return a path."""
        return _saved(name)


class Service:
    """`tinker.ServiceClient`."""

    coin = np.random.default_rng(0)
    learned: list[list[dict[str, Any]]] = []  # noqa: RUF012 - of the class, since tinker-cookbook makes the only one

    def __init__(self, **_: Any) -> None:
        pass

    @staticmethod
    def chance(prompt: str) -> float:
        """Return the chance that the digit in a question names."""
        digits = [letter for letter in prompt if letter.isdigit()]
        return -1.0 if "away" in prompt else int(digits[0]) / 9

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def create_lora_training_client(self, *_: Any, **__: Any) -> Trainer:
        """Return the training client."""
        return Trainer(Service)


def _saved(name: str) -> asyncio.Future[Any]:
    saved = asyncio.get_running_loop().create_future()
    saved.set_result(SimpleNamespace(path=f"tinker://run/{name}"))
    return saved


def _summary(datum: tinker.Datum) -> dict[str, Any]:
    """Return the advantage of a datum's sampled tokens, all the same, and its text."""
    gains = datum.loss_fn_inputs["advantages"].to_torch()
    sampled = gains[datum.loss_fn_inputs["logprobs"].to_torch() != 0]
    assert torch.all(sampled == sampled[0])
    text = Characters().decode([*datum.model_input.to_ints(), int(datum.loss_fn_inputs["target_tokens"].tolist()[-1])])
    return {"text": text, "advantage": float(sampled[0])}
