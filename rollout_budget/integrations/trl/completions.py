"""Completions of one prompt from a vLLM server, with the log-probability of each token.

Owns the HTTP request and its repetitions. Knows nothing of groups or budgets.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

log = logging.getLogger(__name__)

ATTEMPTS = 30
"""Tries of a request before the training ends: TRL's own worker has the same patience, some seven minutes."""
LONGEST_PAUSE_S = 16.0
SEED_BITS = 63
"""vLLM takes signed 64-bit seeds. Each request has its own: engines that draw theirs alike would give equal texts."""
ADAPTERS = "trl-policy-v"
"""How TRL names the adapters that it publishes when it sends those alone."""


class GenerationFailed(Exception):
    """The vLLM server refused a request, or did not answer for too long."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One rollout: token ids, their log-probabilities (as many), and whether the limit of length cut it off."""

    ids: list[int]
    log_probs: list[float]
    cut: bool


class Completions:
    """A client of `/v1/completions`, for `async with`.

    Args:
        url: of the server.
        timeout_s: longest wait for one answer; a server that is paused for new weights answers late.
        settings: of sampling, as the request takes them; `model` among them.
    """

    def __init__(self, url: str, *, timeout_s: float, settings: dict[str, Any]) -> None:
        self._settings = settings
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._http = httpx.AsyncClient(base_url=url.rstrip("/"), timeout=timeout_s, limits=limits, trust_env=False)

    async def __aenter__(self) -> Self:
        """Refuse a server that has TRL's adapters: requests for the model would be answered without them.

        Raises:
            GenerationFailed: it has, or it does not answer.
        """
        try:
            await self._refuse_adapters()
        except BaseException:
            await self._http.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def draw(self, prompt: Sequence[int], count: int) -> list[Completion]:
        """Return `count` completions of a prompt's token ids.

        Raises:
            GenerationFailed: the server refused, or did not answer for some minutes.
        """
        body = {
            **self._settings,
            "prompt": list(prompt),
            "n": count,
            "seed": random.getrandbits(SEED_BITS),
            "logprobs": 0,
            "return_token_ids": True,
        }
        answer = await self._asked("POST", "/v1/completions", body)
        return [
            Completion(choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["finish_reason"] == "length")
            for choice in answer["choices"]
        ]

    async def _refuse_adapters(self) -> None:
        listed = (await self._asked("GET", "/v1/models", None)).get("data", [])
        if any(str(model["id"]).startswith(ADAPTERS) for model in listed):
            raise GenerationFailed("TRL sends adapters alone to this vLLM server: start it without --enable-lora")

    async def _asked(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        for attempt in range(ATTEMPTS):
            try:
                answer = await self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                fault = str(error) or type(error).__name__
            else:
                if answer.is_success:
                    found: dict[str, Any] = answer.json()
                    return found
                fault = f"{answer.status_code} {answer.text[:200]}"
                if answer.is_client_error:
                    raise GenerationFailed(f"vLLM refused {path}: {fault}")
            pause_s = min(2.0**attempt, LONGEST_PAUSE_S)
            log.warning("vLLM %s: %s; try %d of %d in %.0f s", path, fault, attempt + 2, ATTEMPTS, pause_s)
            await asyncio.sleep(pause_s)
        raise GenerationFailed(f"vLLM at {self._http.base_url} did not answer {path} in {ATTEMPTS} tries: {fault}")
