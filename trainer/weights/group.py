"""The broadcast group of learner and servers, and transfers in it.

One group spans them all: the learner is rank 0, each server has a rank offset of its own and gets its own requests. It is
kept from update to update and built anew when its members change or when one was lost. A lost member ends a transfer for
all; those that still answer then get it again, in a new group. Every step is bounded in time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError, WeightUpdateFailed
from trainer.rollouts.vllm import ServerUnusable, VllmServer
from trainer.weights.holding import end_unfinished, finish, start
from trainer.weights.stream import manifest, tensors
from trainer.weights.threads import in_thread
from trainer.weights.transport import MakeTransport, Transport

log = logging.getLogger(__name__)

Failures = dict[str, TrainerError]
"""What went wrong, by the server's URL; empty if nothing did."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long to wait, and how often to try.

    Attributes:
        attempts: transfers of one update; each one after the first is without the servers that were lost.
        meet_s: for all members to join a new group.
        transfer_s: for all tensors to reach all servers.
        grace_s: for the others to end once a transfer has failed.
        look_s: for the health of a server, to tell who was lost.
    """

    attempts: int = 3
    meet_s: float = 90.0
    transfer_s: float = 600.0
    grace_s: float = 20.0
    look_s: float = 10.0


class Hung(WeightUpdateFailed):
    """A server waits in a collective that is over; until it stops it can do nothing else."""


class Group:
    """The learner's end of the group of today."""

    def __init__(self, make: MakeTransport, bounds: Bounds) -> None:
        self._make = make
        self._bounds = bounds
        self._transport: Transport | None = None
        self._members: list[str] = []

    async def close(self) -> None:
        """Leave the group, if there is one."""
        transport, self._transport, self._members = self._transport, None, []
        if transport is not None:
            await self._break(transport)

    async def bring(self, servers: Sequence[VllmServer], directory: Path, version: int) -> Failures:
        """Bring the tensors of `directory` to servers that are held; return who did not get them, and why.

        Raises:
            TrainerError: it can reach nobody: there is no transport here, or `directory` cannot be sent.
        """
        failures: Failures = {}
        left = list(servers)
        for attempt in range(1, self._bounds.attempts + 1):
            if not left:
                break
            errors = await self._once(left, directory, version)
            if not errors:
                break
            log.warning("transfer %d of version %d failed: %s", attempt, version, errors)
            await self.close()
            lost = left if attempt == self._bounds.attempts else await self._lost(left, errors)
            failures |= {server.url: _own_error(errors, server) for server in lost}
            left = [server for server in left if server not in lost]
        return failures

    async def _once(self, servers: Sequence[VllmServer], directory: Path, version: int) -> Failures:
        payload = {"update_info": manifest(directory).update_info()}
        errors = await self._join(servers) or await _each(servers, _begin)
        transport = self._transport
        if errors or transport is None:
            return errors
        seconds = self._bounds.transfer_s
        errors = await self._beside(
            transport,
            lambda: transport.send(tensors(directory)),
            {server.url: self._post(server, "/update_weights", payload, seconds) for server in servers},
            seconds,
        )
        return errors or await _each(servers, lambda server: finish(server, version))

    async def _join(self, servers: Sequence[VllmServer]) -> Failures:
        """See to a group of exactly these servers."""
        members = [server.url for server in servers]
        if self._transport is not None and self._members == members:
            return {}
        await self.close()
        transport = self._make()
        sizes: dict[str, int] = {}

        async def measure(server: VllmServer) -> None:
            await _leave(server, self._bounds.grace_s)
            answer = await server.call("GET", "/get_world_size", timeout_s=self._bounds.look_s)
            sizes[server.url] = int(answer["world_size"])

        if errors := await _each(servers, measure):
            return errors
        *offsets, everybody = rank_offsets([sizes[url] for url in members])
        place = transport.listen(everybody)
        self._transport, self._members = transport, members
        seconds = self._bounds.meet_s
        joins = {
            server.url: self._post(
                server, "/init_weight_transfer_engine", {"init_info": {**place, "rank_offset": offset}}, seconds
            )
            for server, offset in zip(servers, offsets, strict=True)
        }
        return await self._beside(transport, transport.connect, joins, seconds)

    async def _post(self, server: VllmServer, path: str, body: dict[str, Any], seconds: float) -> None:
        await server.call("POST", path, json=body, timeout_s=seconds + self._bounds.grace_s)

    async def _beside(
        self,
        transport: Transport,
        own: Callable[[], None],
        calls: dict[str, Coroutine[Any, Any, None]],
        seconds: float,
    ) -> Failures:
        """Do our part of a collective beside the servers' calls; the first failure of any ends it for all."""
        work = in_thread(own)
        tasks = {url: asyncio.create_task(call) for url, call in calls.items()}
        everything: set[asyncio.Future[None]] = {work, *tasks.values()}
        try:
            done, pending = await asyncio.wait(everything, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            failed = bool(pending) or any(future.exception() is not None for future in done)
            if failed:
                await self._break(transport)
                await asyncio.wait(everything, timeout=self._bounds.grace_s)
        finally:
            for task in tasks.values():
                task.cancel()
        if not failed:
            return {}
        await asyncio.wait(tasks.values())
        errors = {url: error for url, task in tasks.items() if (error := _error_of(task, url)) is not None}
        reason = work.exception() if work.done() else "nobody took them in time"
        return errors or dict.fromkeys(tasks, WeightUpdateFailed(f"the learner could not send its weights: {reason!r}"))

    async def _break(self, transport: Transport) -> None:
        with suppress(TimeoutError, RuntimeError):
            async with asyncio.timeout(self._bounds.grace_s):
                await in_thread(transport.close)

    async def _lost(self, servers: Sequence[VllmServer], errors: Failures) -> list[VllmServer]:
        """Return the servers that another attempt must do without: those that hang or are not healthy."""
        hung = {url for url, error in errors.items() if isinstance(error, Hung)}
        sick = await _each(servers, lambda server: server.call("GET", "/health", timeout_s=self._bounds.look_s))
        return [server for server in servers if server.url in hung | set(sick)]


def rank_offsets(sizes: Sequence[int]) -> list[int]:
    """Return the first rank of each server, of so many workers each, and last the size of the group; the learner is 0."""
    offsets = [1]
    for size in sizes:
        offsets.append(offsets[-1] + size)
    return offsets


async def _leave(server: VllmServer, timeout_s: float) -> None:
    """Have a server leave its group; one that got all tensors of a broken transfer must end that update first."""
    try:
        await server.call("POST", "/shutdown_weight_transfer_engine", timeout_s=timeout_s)
    except ServerUnusable:
        await end_unfinished(server)
        await server.call("POST", "/shutdown_weight_transfer_engine", timeout_s=timeout_s)


async def _begin(server: VllmServer) -> None:
    try:
        await start(server)
    except ServerUnusable:
        await end_unfinished(server)
        await start(server)


async def _each(servers: Sequence[VllmServer], action: Callable[[VllmServer], Awaitable[object]]) -> Failures:
    """Do the same with all servers at once; return what went wrong."""

    async def one(server: VllmServer) -> TrainerError | None:
        try:
            await action(server)
        except TrainerError as error:
            return error
        return None

    results = await asyncio.gather(*(one(server) for server in servers))
    return {server.url: error for server, error in zip(servers, results, strict=True) if error is not None}


def _error_of(task: asyncio.Task[None], url: str) -> TrainerError | None:
    if task.cancelled():
        return Hung(f"{url} still waits for weights that do not come; restart it if it stays out of service")
    error = task.exception()
    if error is None or isinstance(error, TrainerError):
        return error
    raise error


def _own_error(errors: Failures, server: VllmServer) -> TrainerError:
    return errors.get(server.url) or next(iter(errors.values()))
