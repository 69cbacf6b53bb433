"""Several vLLM servers as one source of rollouts.

Owns routing, retries, continuations and which servers are in service. A prompt goes to the server with the fewest
completions under way for its weight. A server that fails is taken out at once, looked at every few seconds, brought to
the current weights and only then put back; meanwhile the others carry on, and with none left callers wait until one is
back or their deadline has passed. A server that has prompts and does not answer is found by a look at its health, and its
prompts go elsewhere.

Where weights change while rollouts are drawn (`continues`), completions that were cut off go on under the new weights, on
any server (`continuation.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from trainer.errors import GenerationFailed, TrainerError
from trainer.rollouts.continuation import MOST_PARTS, Decode, joined, remainder
from trainer.rollouts.vllm import FINISHED, LOOK_S, CallFailed, Counts, ServerUnusable, VllmServer
from trainer.types import Sample, Sampling

log = logging.getLogger(__name__)

Bring = Callable[[VllmServer], Awaitable[None]]
"""Brings one server to the current weights, or raises a TrainerError."""
BringTogether = Callable[[Sequence[VllmServer]], Awaitable[dict[str, TrainerError]]]
"""Brings several servers to the current weights in one go; returns what failed by URL."""

GLANCE_S = 2.0
"""Longest wait for the health of a server that is out of service: one that hangs must not hold up every update."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Bounds of one `generate`.

    Attributes:
        attempts: calls for the same samples, the first included.
        deadline_s: from asking to giving up, waits for a server that recovers included.
        pause_s: before another call where the server said that it is busy; doubles each time.
        look_s: between two looks at a server that is out of service.
        watch_s: between two looks at the health of servers that have prompts.
    """

    attempts: int = 4
    deadline_s: float = 900.0
    pause_s: float = 0.5
    look_s: float = 2.0
    watch_s: float = 10.0


@dataclass(slots=True, eq=False)
class _Member:
    server: VllmServer
    weight: float = 1.0
    in_service: bool = True
    under_way: int = 0
    update: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: set[asyncio.Task[list[Sample]]] = field(default_factory=set)

    def load_with(self, count: int) -> float:
        """Return completions under way per weight if `count` more came."""
        return (self.under_way + count) / self.weight


@dataclass(frozen=True, slots=True)
class _Request:
    """One call's worth of samples."""

    prompt_ids: Sequence[int]
    count: int
    sampling: Sampling
    version: int
    seed: int


class ServerPool:
    """The generator of a training run; obeys `trainer.types.Generator`.

    Args:
        weights: each server's share of the load, in their order, above 0; all equal where None.
        continues: weights may change while rollouts are drawn. Then a completion may span versions, and `publish` does
            not wait for those under way. Otherwise every completion is of exactly the version that was asked for.
        decode: makes the text of a completion that spans several calls; see `continuation.joined`.
    """

    def __init__(
        self,
        servers: Sequence[VllmServer],
        patience: Patience | None = None,
        *,
        weights: Sequence[float] | None = None,
        continues: bool = False,
        decode: Decode | None = None,
    ) -> None:
        shares = weights or [1.0] * len(servers)
        self._members = [_Member(server, weight) for server, weight in zip(servers, shares, strict=True)]
        self._patience = patience or Patience()
        self.continues = continues
        self.decode = decode
        self._taken_back = Counts()
        self._back = asyncio.Condition()
        self._bring: Bring | None = None
        self._recoveries: set[asyncio.Task[None]] = set()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def counts(self) -> Counts:
        """What all servers have sent so far."""
        return sum((member.server.counts for member in self._members), self._taken_back)

    @property
    def servers(self) -> list[VllmServer]:
        """The clients of all servers, in service or not."""
        return [member.server for member in self._members]

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
        tasks = [*self._recoveries, *([] if self._watcher is None else [self._watcher])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(member.server.close() for member in self._members))

    async def generate(
        self, prompt_ids: Sequence[int], *, count: int, sampling: Sampling, version: int, seed: int
    ) -> list[Sample]:
        """Return `count` samples of one prompt.

        Without `continues` all come from one call to one server at `version`. With it, each token is of `version` or
        later, and versions do not fall along a sample. A caller that is cancelled cancels the calls, on servers too.

        Raises:
            GenerationFailed: the request is refused, or the bounds of `Patience` are used up.
        """
        try:
            async with asyncio.timeout(self._patience.deadline_s):
                request = _Request(prompt_ids, count, sampling, version, seed)
                samples = await self._with_retries(request)
                return samples if all(map(_is_finished, samples)) else await self._finish(request, samples)
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

    async def update_together(self, bring: BringTogether) -> dict[str, TrainerError]:
        """Do what `update` does in one go: `bring` gets all servers that answer, and later each that comes back."""

        async def bring_one(server: VllmServer) -> None:
            for error in (await bring([server])).values():
                raise error

        self._bring = bring_one
        looks = await asyncio.gather(*(_health(member) for member in self._members))
        failures = {member.server.url: error for member, error in zip(self._members, looks, strict=True) if error}
        async with AsyncExitStack() as updates:
            answering = [member for member in self._members if member.server.url not in failures]
            for member in answering:
                await updates.enter_async_context(member.update)
            failures |= await bring([member.server for member in answering]) if answering else {}
        for member in self._members:
            if (error := failures.get(member.server.url)) is not None:
                self._take_out(member, error)
            else:
                await self._put_back(member)
        return failures

    async def _finish(self, request: _Request, samples: list[Sample]) -> list[Sample]:
        """Go on from what was cut off until all samples are complete; each goes on alone. All or none."""
        try:
            async with asyncio.TaskGroup() as group:
                for child in range(len(samples)):
                    group.create_task(self._finish_one(request, samples, child))
        except BaseException as error:
            self._take_back(samples, cancelled=isinstance(error, asyncio.CancelledError))
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise
        return samples

    async def _finish_one(self, request: _Request, samples: list[Sample], child: int) -> None:
        for part in range(1, MOST_PARTS):
            if _is_finished(samples[child]):
                return
            rest = remainder(
                request.prompt_ids,
                samples[child],
                sampling=request.sampling,
                version=request.version,
                seed=request.seed,
                child=child,
                part=part,
            )
            (more,) = await self._with_retries(_Request(rest.prompt_ids, 1, rest.sampling, rest.version, rest.seed))
            samples[child] = joined(samples[child], more, self.decode)
        if not _is_finished(samples[child]):
            raise GenerationFailed(f"new weights came {MOST_PARTS} times before a completion was finished")

    def _take_back(self, samples: Sequence[Sample], *, cancelled: bool) -> None:
        """Book what servers counted as samples and nobody gets."""
        finished = sum(map(_is_finished, samples))
        tokens = sum(len(sample.token_ids) for sample in samples)
        self._taken_back += Counts(
            samples=-finished,
            tokens=-tokens,
            cancelled=finished if cancelled else 0,
            discarded=0 if cancelled else finished,
        )

    async def _with_retries(self, request: _Request) -> list[Sample]:
        failure: CallFailed | None = None
        for attempt in range(self._patience.attempts):
            member = await self._least_loaded(request.count)
            try:
                return await self._ask(member, request)
            except ServerUnusable as error:
                failure = error
                self._take_out(member, error)
            except CallFailed as error:
                failure = error
                await asyncio.sleep(self._patience.pause_s * 2**attempt)
        raise GenerationFailed(f"no samples after {self._patience.attempts} calls; the last: {failure}") from failure

    async def _ask(self, member: _Member, request: _Request) -> list[Sample]:
        """Ask one server; ends early where the server is found not to answer."""
        call = asyncio.ensure_future(
            member.server.generate(
                request.prompt_ids,
                count=request.count,
                sampling=request.sampling,
                version=request.version,
                seed=request.seed,
                partial=self.continues,
            )
        )
        member.under_way += request.count
        member.calls.add(call)
        self._watch()
        try:
            return await call
        except asyncio.CancelledError:
            if member.in_service or ((task := asyncio.current_task()) is not None and task.cancelling()):
                raise
            raise ServerUnusable(f"{member.server.url} did not answer while it had prompts") from None
        finally:
            member.calls.discard(call)
            member.under_way -= request.count

    async def _least_loaded(self, count: int) -> _Member:
        async with self._back:
            await self._back.wait_for(lambda: self.in_service > 0)
        serving = [member for member in self._members if member.in_service]
        return min(serving, key=lambda member: member.load_with(count))

    def _watch(self) -> None:
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch_members())

    async def _watch_members(self) -> None:
        """Look at the servers that have prompts until none has; one that does not answer loses them."""
        while any(member.calls for member in self._members):
            await asyncio.sleep(self._patience.watch_s)
            busy = [member for member in self._members if member.in_service and member.calls]
            await asyncio.gather(*(self._look_at(member) for member in busy))

    async def _look_at(self, member: _Member) -> None:
        if (error := await _health(member)) is not None:
            self._take_out(member, error)
            for call in member.calls:
                call.cancel()

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
        error = await _health(member)
        if error is None and self._bring is not None:
            async with member.update:
                try:
                    await self._bring(member.server)
                except TrainerError as failure:
                    error = failure
        if error is not None:
            self._take_out(member, error)
        else:
            await self._put_back(member)
        return error

    async def _put_back(self, member: _Member) -> None:
        if not member.in_service:
            log.warning("%s is back in service", member.server.url)
        async with self._back:
            member.in_service = True
            self._back.notify_all()


async def _health(member: _Member) -> TrainerError | None:
    """Return why a server is not healthy, or None."""
    try:
        await member.server.call("GET", "/health", timeout_s=LOOK_S if member.in_service else GLANCE_S)
    except TrainerError as error:
        return error
    return None


def _is_finished(sample: Sample) -> bool:
    return sample.finish_reason in FINISHED
