"""One vLLM server as a source of rollouts: one call, one answer, every sample under a known weight version.

Owns the wire form of `/v1/completions`, the proof of the version, and the counts of what came back. Retries, the choice
of a server and continuations are the pool's; weight updates are the publisher's, through `call` and `gate`.

The proof: a server's version label never returns to an earlier value, so a call whose server showed `version` before it
began and after it ended was sampled under `version` throughout. One look at the label serves all calls that ended before
it began, so a burst of answers costs one look. Where versions are adapters (`adapters`), a call names its adapter, whose
weights never change, and needs no look: a server that does not have it refuses.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

from trainer.batching import Coalescer
from trainer.errors import GenerationFailed
from trainer.rollouts.counts import Counts
from trainer.rollouts.gate import Gate
from trainer.types import Sample, Sampling

__all__ = ["ANSWER_S", "LOOK_S", "CallFailed", "Counts", "ServerUnusable", "UnknownModel", "VllmServer"]

CONNECT_S = 15.0
"""Longest wait for a connection: a live server accepts at once, even while its engine is paused, but this process may have
too little of its processor to notice: 5 s were not enough on two cores that seven processes shared."""
ANSWER_S = 300.0
"""Longest wait for one call: generation of the longest completions plus a weight update, which holds calls back."""
LOOK_S = 30.0
"""Longest wait for health, version or metrics: tiny answers, but a busy engine can hold the event loop for seconds."""
KEEP_ALIVE_S = 2.0
"""How long an idle connection is kept: shorter than vLLM's own 5 s, so that no call meets a connection just closed."""
CALLS = 128
"""Calls under way at once by default: keeps a GPU server's batch full, far below any limit of open files."""
FINISHED = ("stop", "length")
PARTIAL = (*FINISHED, "abort")
"""Ends of completions that can go on elsewhere: what they have is whole tokens of one version."""


class CallFailed(GenerationFailed):
    """One call brought no samples that count; another may."""


class ServerUnusable(CallFailed):
    """The server is gone, broken or at another version: leave it alone until it has recovered."""


class UnknownModel(GenerationFailed):
    """The server has no model or adapter of that name."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    prompt_ids: tuple[int, ...]
    count: int
    sampling: Sampling
    version: int
    seed: int
    partial: bool

    def together(self) -> Hashable:
        """Return what prompts of one call have in common."""
        return self.count, self.sampling, self.partial, None if self.partial else self.version


class VllmServer:
    """A client of one server.

    Args:
        prompts_per_call: most prompts that share a call. With more than one, calls carry no seed (vLLM would draw the
            same noise for every prompt of a call), and short completions come several times faster: on two cores a call
            costs far more than a short completion. With one, every call carries its seed; right for long completions.
        calls: calls under way at once; further prompts wait here, where waiting costs no socket.
        run: part of every version's label, so that another run's weights of the same number never pass for this one's.
        answer_s: longest wait for one call.
        adapters: every version is an adapter of its own name, which calls name as their model.
        transport: replaces the network in tests.

    Attributes:
        gate: every call passes it; a publisher that must not meet one closes it.
        published: the version that a publisher brought the server to last.
        in_use: calls under way by version.
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
        adapters: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url
        self.model = model
        self._run = run
        self.counts = Counts()
        self.gate = Gate()
        self.published: int | None = None
        self.in_use = Counter[int]()
        self._adapters = f"{model}-{run}-{uuid.uuid4().hex[:8]}" if adapters else ""
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(answer_s, connect=CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=CALLS, keepalive_expiry=KEEP_ALIVE_S),
            transport=transport,
            trust_env=False,
        )
        self._calls = Coalescer(
            self._complete, most=prompts_per_call, calls=calls, key=_Wanted.together, cancel_unwanted=True
        )
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
        self,
        prompt_ids: Sequence[int],
        *,
        count: int,
        sampling: Sampling,
        version: int,
        seed: int,
        partial: bool = False,
    ) -> list[Sample]:
        """Return `count` samples of one prompt, all under one weight version.

        Once nobody waits for any prompt of a call any more, the call is cancelled, here and on the server.

        Of the version asked for, exactly. With `partial` it is the oldest that will do, the server's own is used, and what
        was aborted comes too, with the tokens that it has and finish reason "abort".

        Raises:
            GenerationFailed: the request itself is refused; repeating it is useless.
            CallFailed: nothing of this call counts; see its subclasses for whether the server is to blame.
        """
        try:
            samples = await self._calls.ask(_Wanted(tuple(prompt_ids), count, sampling, version, seed, partial))
        except asyncio.CancelledError:
            self.counts.cancelled += count
            raise
        finished = sum(sample.finish_reason in FINISHED for sample in samples)
        self.counts.samples += finished
        self.counts.aborted += len(samples) - finished
        self.counts.tokens += sum(len(sample.token_ids) for sample in samples)
        return samples

    async def _complete(self, wanted: list[_Wanted]) -> list[list[Sample] | Exception]:
        """Send one call for several prompts, under one version from its beginning to its end."""
        async with self.gate.passing():
            version = self._version_for(wanted)
            self.in_use[version] += 1
            try:
                return await self._complete_at(version, wanted)
            finally:
                self.in_use[version] -= 1

    def _version_for(self, wanted: list[_Wanted]) -> int:
        """Return the version that a call which begins now is made under."""
        needed = max(item.version for item in wanted)
        if not wanted[0].partial or self.published is None:
            return needed
        if self.published < needed:
            raise CallFailed(f"{self.url} is still at version {self.published}, and {needed} is wanted")
        return self.published

    async def _complete_at(self, version: int, wanted: list[_Wanted]) -> list[list[Sample] | Exception]:
        count = wanted[0].count
        try:
            if self._version != self.label(version):
                await self._require(version)
            answer = await self.call("POST", "/v1/completions", json=self._body(wanted, version), keep_alive=True)
            choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        except UnknownModel as error:
            self.counts.failed += 1
            if self._adapters:
                raise ServerUnusable(f"{self.url} lost the adapter of version {version}: {error}") from error
            raise
        except CallFailed:
            self.counts.failed += 1
            raise
        except GenerationFailed as error:
            self.counts.failed += 1
            return [error] if len(wanted) == 1 else await self._one_by_one(version, wanted)
        self.counts.calls += 1
        try:
            if len(choices) != len(wanted) * count:
                raise ServerUnusable(f"{self.url}: asked for {len(wanted)} x {count} samples, got {len(choices)}")
            await self._require(version)
        except CallFailed:
            self.counts.failed += 1
            self.counts.discarded += _finished(choices)
            raise
        return [
            self._group(choices[place * count : (place + 1) * count], version, PARTIAL if item.partial else FINISHED)
            for place, item in enumerate(wanted)
        ]

    async def _one_by_one(self, version: int, wanted: list[_Wanted]) -> list[list[Sample] | Exception]:
        """Repeat a refused call prompt by prompt, so that one bad prompt does not take the others with it."""
        answers: list[list[Sample] | Exception] = []
        for item in wanted:
            try:
                answers += await self._complete_at(version, [item])
            except CallFailed as error:
                answers.append(error)
        return answers

    def _group(self, choices: list[dict[str, Any]], version: int, ends: Sequence[str]) -> list[Sample] | Exception:
        """Return the samples of one prompt, all or none."""
        if reasons := sorted({str(choice["finish_reason"]) for choice in choices} - set(ends)):
            self.counts.discarded += _finished(choices)
            return CallFailed(f"{self.url}: completions ended with finish reason {reasons}, which never counts")
        return [_sample(choice, version) for choice in choices]

    def adapter(self, version: int) -> str:
        """Return the name of the adapter that holds `version`: no other version, run or process ever has it.

        A process has names of its own because a resumed run draws versions anew that an earlier attempt has loaded.
        """
        return f"{self._adapters}-v{version}"

    @property
    def adapters_of_run(self) -> str:
        """What the names of all adapters of this run begin with."""
        return self._adapters.rpartition("-")[0]

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
        """Send one request and return its JSON answer (None where it has another one, or none).

        Rare requests get a connection of their own: vLLM closes the one that it has sent an error 500 on, and the next
        request on it would be lost. `keep_alive` is for frequent ones.

        Raises:
            GenerationFailed: the server refuses the request itself (4xx; `UnknownModel` for 404).
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
            return answer.json() if answer.headers.get("content-type", "").startswith("application/json") else None
        what = f"{self.url}{path}: {answer.status_code} {answer.text[:300]}"
        if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            raise CallFailed(what)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            raise UnknownModel(what)
        raise GenerationFailed(what) if answer.is_client_error else ServerUnusable(what)

    async def _require(self, version: int) -> None:
        if self._adapters:
            return
        shown = await self.version()
        if shown != self.label(version):
            raise ServerUnusable(f"{self.url} is at weight version {shown!r}, not {self.label(version)!r}")

    def _body(self, wanted: list[_Wanted], version: int) -> dict[str, Any]:
        first = wanted[0]
        return {
            "model": self.adapter(version) if self._adapters else self.model,
            "prompt": [list(item.prompt_ids) for item in wanted],
            "n": first.count,
            "max_tokens": first.sampling.max_tokens,
            "temperature": first.sampling.temperature,
            "top_p": first.sampling.top_p,
            "logprobs": 0,
            "return_token_ids": True,
            "cache_salt": self.label(version),
            "request_id": uuid.uuid4().hex,
            **({"seed": first.seed} if self._seeded else {}),
        }


def _finished(choices: list[dict[str, Any]]) -> int:
    return sum(choice["finish_reason"] in FINISHED for choice in choices)


def _sample(choice: dict[str, Any], version: int) -> Sample:
    return Sample(
        token_ids=tuple(choice["token_ids"]),
        logprobs=tuple((choice["logprobs"] or {}).get("token_logprobs") or ()),  # none where nothing was sampled
        text=choice["text"],
        finish_reason=choice["finish_reason"],
        version=version,
    )
