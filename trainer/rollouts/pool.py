"""Several vLLM servers as one source of rollouts.

Owns routing, retries and which servers are in service. A prompt goes to the server with the fewest prompts under way. A
server that fails is taken out at once, looked at every few seconds, brought to the current weights and only then put
back; meanwhile the others carry on, and with none left callers wait until one is back or their deadline has passed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from trainer.errors import GenerationFailed, TrainerError
from trainer.rollouts.vllm import CallFailed, Counts, ServerUnusable, VllmServer
from trainer.types import Sample, Sampling

log = logging.getLogger(__name__)

Bring = Callable[[VllmServer], Awaitable[None]]
"""Brings one server to the current weights, or raises a TrainerError."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Bounds of one `generate`.

    Attributes:
        attempts: calls for the same samples, the first included.
        deadline_s: from asking to giving up, waits for a server that recovers included.
        pause_s: before another call where the server said that it is busy; doubles each time.
        look_s: between two looks at a server that is out of service.
    """

    attempts: int = 4
    deadline_s: float = 900.0
    pause_s: float = 0.5
    look_s: float = 2.0


@dataclass(slots=True, eq=False)
class _Member:
    server: VllmServer
    in_service: bool = True
    under_way: int = 0
    update: asyncio.Lock = field(default_factory=asyncio.Lock)


class ServerPool:
    """The generator of a training run; obeys `trainer.types.Generator`."""

    def __init__(self, servers: Sequence[VllmServer], patience: Patience | None = None) -> None:
        self._members = [_Member(server) for server in servers]
        self._patience = patience or Patience()
        self._back = asyncio.Condition()
        self._bring: Bring | None = None
        self._recoveries: set[asyncio.Task[None]] = set()

    @property
    def counts(self) -> Counts:
        """What all servers have sent so far."""
        return sum((member.server.counts for member in self._members), Counts())

    @property
    def urls(self) -> list[str]:
        """All servers, in service or not."""
        return [member.server.url for member in self._members]

    @property
    def in_service(self) -> int:
        """Servers that take prompts now."""
        return sum(member.in_service for member in self._members)

    async def finished_requests(self) -> int:
        """Return vLLM's own count of finished completions over all servers; see `Counts`."""
        return sum(await asyncio.gather(*(member.server.finished_requests() for member in self._members)))

    async def close(self) -> None:
        """Cancel what is under way and release connections."""
        for task in self._recoveries:
            task.cancel()
        await asyncio.gather(*self._recoveries, return_exceptions=True)
        await asyncio.gather(*(member.server.close() for member in self._members))

    async def generate(
        self, prompt_ids: Sequence[int], *, count: int, sampling: Sampling, version: int, seed: int
    ) -> list[Sample]:
        """Return `count` samples of one prompt, all from one call to one server at `version`.

        Raises:
            GenerationFailed: the request is refused, or the bounds of `Patience` are used up.
        """
        try:
            async with asyncio.timeout(self._patience.deadline_s):
                return await self._with_retries(prompt_ids, count, sampling, version, seed)
        except TimeoutError as error:
            raise GenerationFailed(f"no samples within {self._patience.deadline_s:.0f} s") from error

    async def update(self, bring: Bring) -> dict[str, TrainerError]:
        """Bring all servers to new weights at once; return those that failed by URL, which are now out of service.

        `bring` is kept for servers that come back later; it must do nothing harmful to one that is up to date.
        """
        self._bring = bring
        results = await asyncio.gather(*(self._bring_up(member) for member in self._members))
        return {
            member.server.url: error for member, error in zip(self._members, results, strict=True) if error is not None
        }

    async def _with_retries(
        self, prompt_ids: Sequence[int], count: int, sampling: Sampling, version: int, seed: int
    ) -> list[Sample]:
        failure: CallFailed | None = None
        for attempt in range(self._patience.attempts):
            member = await self._least_loaded()
            member.under_way += 1
            try:
                return await member.server.generate(
                    prompt_ids, count=count, sampling=sampling, version=version, seed=seed
                )
            except ServerUnusable as error:
                failure = error
                self._take_out(member, error)
            except CallFailed as error:
                failure = error
                await asyncio.sleep(self._patience.pause_s * 2**attempt)
            finally:
                member.under_way -= 1
        raise GenerationFailed(f"no samples after {self._patience.attempts} calls; the last: {failure}") from failure

    async def _least_loaded(self) -> _Member:
        async with self._back:
            await self._back.wait_for(lambda: self.in_service > 0)
        return min((member for member in self._members if member.in_service), key=lambda member: member.under_way)

    def _take_out(self, member: _Member, error: TrainerError) -> None:
        if member.in_service:
            log.warning("%s is out of service: %s", member.server.url, error)
            member.in_service = False
            recovery = asyncio.create_task(self._recover(member))
            self._recoveries.add(recovery)
            recovery.add_done_callback(self._recoveries.discard)

    async def _recover(self, member: _Member) -> None:
        while not member.in_service:
            await asyncio.sleep(self._patience.look_s)
            await self._bring_up(member)

    async def _bring_up(self, member: _Member) -> TrainerError | None:
        async with member.update:
            try:
                await member.server.call("GET", "/health")
                if self._bring is not None:
                    await self._bring(member.server)
            except TrainerError as error:
                self._take_out(member, error)
                return error
        if not member.in_service:
            log.warning("%s is back in service", member.server.url)
        async with self._back:
            member.in_service = True
            self._back.notify_all()
        return None
