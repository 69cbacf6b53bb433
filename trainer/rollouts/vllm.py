"""One vLLM server as a source of rollouts: one call, one answer, every sample under a known weight version.

Owns the wire form of `/v1/completions`, the proof of the version, and the counts of what came back. Retries and the
choice of a server are the pool's; weight updates are the publisher's, through `call`.

The proof: a server's version label never returns to an earlier value, so a call whose server showed `version` before it
began and after it ended was sampled under `version` throughout. One look at the label serves all calls that ended before
it began, so a burst of answers costs one look.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

from trainer.batching import Coalescer
from trainer.errors import GenerationFailed
from trainer.types import Sample, Sampling

CONNECT_S = 5.0
"""Longest wait for a connection: a live server accepts at once, even while its engine is paused."""
ANSWER_S = 300.0
"""Longest wait for one call: generation of the longest completions plus a weight update, which holds calls back."""
LOOK_S = 30.0
"""Longest wait for health, version or metrics: tiny answers, but a busy engine can hold the event loop for seconds."""
KEEP_ALIVE_S = 2.0
"""How long an idle connection is kept: shorter than vLLM's own 5 s, so that no call meets a connection just closed."""
CALLS = 128
"""Calls under way at once by default: keeps a GPU server's batch full, far below any limit of open files."""
FINISHED = ("stop", "length")


class CallFailed(GenerationFailed):
    """One call brought no samples that count; another may."""


class ServerUnusable(CallFailed):
    """The server is gone, broken or at another version: leave it alone until it has recovered."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    prompt_ids: tuple[int, ...]
    count: int
    sampling: Sampling
    version: int
    seed: int

    def together(self) -> tuple[int, Sampling, int]:
        """Return what prompts of one call have in common."""
        return self.count, self.sampling, self.version


@dataclass(slots=True)
class Counts:
    """What a server has sent. `samples + discarded` equals vLLM's `request_success_total` of stop and length.

    vLLM counts one request per sampled completion, not per call: n children of a prompt count n (measured on 0.32.0).

    Attributes:
        calls: answered calls, of any number of samples.
        samples: completions that were returned to the caller, exactly once each.
        tokens: sampled tokens of those.
        discarded: finished completions of calls that did not count (another version, or a sibling was aborted).
        failed: calls that brought nothing that counts.
    """

    calls: int = 0
    samples: int = 0
    tokens: int = 0
    discarded: int = 0
    failed: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Return the sums."""
        return Counts(
            self.calls + other.calls,
            self.samples + other.samples,
            self.tokens + other.tokens,
            self.discarded + other.discarded,
            self.failed + other.failed,
        )


class VllmServer:
    """A client of one server.

    Args:
        prompts_per_call: most prompts that share a call. With more than one, calls carry no seed (vLLM would draw the
            same noise for every prompt of a call), and short completions come several times faster: on two cores a call
            costs far more than a short completion. With one, every call carries its seed; right for long completions.
        calls: calls under way at once; further prompts wait here, where waiting costs no socket.
        run: part of every version's label, so that another run's weights of the same number never pass for this one's.
        answer_s: longest wait for one call.
        transport: replaces the network in tests.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "policy",
        prompts_per_call: int = 1,
        calls: int = CALLS,
        run: str = "",
        answer_s: float = ANSWER_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url
        self.model = model
        self._run = run
        self.counts = Counts()
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(answer_s, connect=CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=CALLS, keepalive_expiry=KEEP_ALIVE_S),
            transport=transport,
            trust_env=False,
        )
        self._calls = Coalescer(self._complete, most=prompts_per_call, calls=calls, key=_Wanted.together)
        self._seeded = prompts_per_call == 1
        self._look = asyncio.Lock()
        self._looks_begun = 0
        self._looks_ended = 0
        self._version: str | None = None

    async def close(self) -> None:
        """Release connections; calls in flight are cancelled, also on the server."""
        await self._calls.close()
        await self._http.aclose()

    async def generate(
        self, prompt_ids: Sequence[int], *, count: int, sampling: Sampling, version: int, seed: int
    ) -> list[Sample]:
        """Return `count` samples of one prompt under weight `version`.

        Raises:
            GenerationFailed: the request itself is refused; repeating it is useless.
            CallFailed: nothing of this call counts; see its subclasses for whether the server is to blame.
        """
        return await self._calls.ask(_Wanted(tuple(prompt_ids), count, sampling, version, seed))

    async def _complete(self, wanted: list[_Wanted]) -> list[list[Sample] | Exception]:
        """Send one call for several prompts and count what comes back, each sample once."""
        count, version = wanted[0].count, wanted[0].version
        try:
            if self._version != self.label(version):
                await self._require(version)
            answer = await self.call("POST", "/v1/completions", json=self._body(wanted), keep_alive=True)
            choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        except CallFailed:
            self.counts.failed += 1
            raise
        except GenerationFailed as error:
            self.counts.failed += 1
            return [error] if len(wanted) == 1 else await self._one_by_one(wanted)
        self.counts.calls += 1
        try:
            if len(choices) != len(wanted) * count:
                raise ServerUnusable(f"{self.url}: asked for {len(wanted)} x {count} samples, got {len(choices)}")
            await self._require(version)
        except CallFailed:
            self.counts.failed += 1
            self.counts.discarded += _finished(choices)
            raise
        return [self._group(choices[first : first + count], version) for first in range(0, len(choices), count)]

    async def _one_by_one(self, wanted: list[_Wanted]) -> list[list[Sample] | Exception]:
        """Repeat a refused call prompt by prompt, so that one bad prompt does not take the others with it."""
        answers: list[list[Sample] | Exception] = []
        for item in wanted:
            try:
                answers += await self._complete([item])
            except CallFailed as error:
                answers.append(error)
        return answers

    def _group(self, choices: list[dict[str, Any]], version: int) -> list[Sample] | Exception:
        """Return the samples of one prompt, all or none."""
        if _finished(choices) < len(choices):
            self.counts.discarded += _finished(choices)
            reasons = sorted({str(choice["finish_reason"]) for choice in choices} - set(FINISHED))
            return CallFailed(f"{self.url}: completions ended with finish reason {reasons}, which never counts")
        samples = [_sample(choice, version) for choice in choices]
        self.counts.samples += len(samples)
        self.counts.tokens += sum(len(sample.token_ids) for sample in samples)
        return samples

    def label(self, version: int) -> str:
        """Return what the server shows while it holds `version` of this run."""
        return f"{self._run}:{version}" if self._run else str(version)

    async def version(self) -> str:
        """Return the server's weight version label by a look that begins now or later, shared with other callers."""
        needed = self._looks_begun + 1
        async with self._look:
            if self._looks_ended < needed:
                self._looks_begun = needed
                self._version = None
                try:
                    answer = await self.call("GET", "/weight_info", timeout_s=LOOK_S, keep_alive=True)
                    self._version = str(answer["weight_version"])
                finally:
                    self._looks_ended = needed
            if self._version is None:
                raise ServerUnusable(f"{self.url} did not show its weight version")
            return self._version

    async def finished_requests(self) -> int:
        """Return the server's own count of finished completions, from its metrics: what `Counts` must equal."""
        try:
            answer = await self._http.get("/metrics", timeout=LOOK_S)
        except httpx.TransportError as error:
            raise ServerUnusable(f"{self.url}: {error!r}") from error
        rows = re.findall(
            r'^vllm:request_success_total\{.*finished_reason="(\w+)".*\} (\S+)$', answer.text, re.MULTILINE
        )
        return sum(int(float(value)) for reason, value in rows if reason in FINISHED)

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        keep_alive: bool = False,
        **query: str,
    ) -> Any:
        """Send one request and return its JSON answer (None where it has no body).

        Rare requests get a connection of their own: vLLM closes the one that it has sent an error 500 on, and the next
        request on it would be lost. `keep_alive` is for frequent ones.

        Raises:
            GenerationFailed: the server refuses the request itself (4xx).
            CallFailed: it is paused or overloaded (503).
            ServerUnusable: it cannot be reached, broke, or did not answer in time.
        """
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else httpx.Timeout(timeout_s, connect=CONNECT_S)
        headers = None if keep_alive else {"Connection": "close"}
        try:
            answer = await self._http.request(
                method, path, json=json, params=query or None, timeout=timeout, headers=headers
            )
        except httpx.TransportError as error:
            raise ServerUnusable(f"{self.url}{path}: {error!r}") from error
        if answer.is_success:
            return answer.json() if answer.content else None
        what = f"{self.url}{path}: {answer.status_code} {answer.text[:300]}"
        if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            raise CallFailed(what)
        raise GenerationFailed(what) if answer.is_client_error else ServerUnusable(what)

    async def _require(self, version: int) -> None:
        shown = await self.version()
        if shown != self.label(version):
            raise ServerUnusable(f"{self.url} is at weight version {shown!r}, not {self.label(version)!r}")

    def _body(self, wanted: list[_Wanted]) -> dict[str, Any]:
        first = wanted[0]
        return {
            "model": self.model,
            "prompt": [list(item.prompt_ids) for item in wanted],
            "n": first.count,
            "max_tokens": first.sampling.max_tokens,
            "temperature": first.sampling.temperature,
            "top_p": first.sampling.top_p,
            "logprobs": 0,
            "return_token_ids": True,
            "cache_salt": self.label(first.version),
            "request_id": uuid.uuid4().hex,
            **({"seed": first.seed} if self._seeded else {}),
        }


def _finished(choices: list[dict[str, Any]]) -> int:
    return sum(choice["finish_reason"] in FINISHED for choice in choices)


def _sample(choice: dict[str, Any], version: int) -> Sample:
    return Sample(
        token_ids=tuple(choice["token_ids"]),
        logprobs=tuple(choice["logprobs"]["token_logprobs"]),
        text=choice["text"],
        finish_reason=choice["finish_reason"],
        version=version,
    )
