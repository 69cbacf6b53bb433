"""Publishes exported weights by broadcasting them to all servers at once: the control flow of the `nccl` and `gloo` back ends.

The order for each server is that of every back end: hold -> start -> update -> finish -> reset of the prefix cache -> let go.
The updates of all servers are one collective, so the servers wait for each other before it. Whoever is missing (does
not answer, does not pause) is left out of it; whoever comes back later gets the weights in a group of its own. Groups
and transfers are `group.py`'s business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import TrainerError, WeightUpdateFailed
from trainer.rollouts.pool import ServerPool
from trainer.rollouts.vllm import VllmServer
from trainer.weights.decoding import teach_to_decode
from trainer.weights.exports import KEEP_EXPORTS, prune, require_stable
from trainer.weights.filesystem import confirm
from trainer.weights.group import Bounds, Failures, Group
from trainer.weights.holding import held, reset_prefix_cache, unlabel
from trainer.weights.transport import MakeTransport


class BroadcastPublisher:
    """Obeys `trainer.types.WeightPublisher` for a pool of vLLM servers that share a network of tensors with the learner.

    Args:
        make: opens the learner's end of a new group.
    """

    def __init__(
        self, pool: ServerPool, make: MakeTransport, *, keep: int = KEEP_EXPORTS, bounds: Bounds | None = None
    ) -> None:
        self._pool = pool
        self._keep = keep
        self._group = Group(make, bounds or Bounds())
        self._turn = asyncio.Lock()

    async def publish(self, directory: Path, version: int) -> None:
        """Send the tensors of `directory`, made by `exports.export_directory`; afterwards older exports are removed.

        Servers that fail are out of the pool until they have caught up, each in a group of its own.

        Raises:
            WeightUpdateFailed: the export is not complete, or not one server could be brought to `version`.
        """
        require_stable(directory)

        async def bring(servers: Sequence[VllmServer]) -> Failures:
            async with self._turn:
                return await self._bring(servers, directory, version)

        teach_to_decode(self._pool, directory)
        failures = await self._pool.update_together(bring)
        if self._pool.in_service == 0:
            raise WeightUpdateFailed(f"no server reached version {version}: {failures}")
        prune(directory.parent, keep=self._keep)

    async def close(self) -> None:
        """Leave the group."""
        await self._group.close()

    async def _bring(self, servers: Sequence[VllmServer], directory: Path, version: int) -> Failures:
        meeting = Meeting([server.url for server in servers])
        transfer = asyncio.create_task(self._transfer(meeting, servers, directory, version))
        try:
            results = await asyncio.gather(*(self._bring_one(server, meeting, version) for server in servers))
        except BaseException:
            transfer.cancel()
            raise
        finally:
            await asyncio.wait([transfer])
        return {server.url: error for server, error in zip(servers, results, strict=True) if error is not None}

    async def _bring_one(self, server: VllmServer, meeting: Meeting, version: int) -> TrainerError | None:
        try:
            async with held(server, drain=self._pool.continues):
                if await server.version() != server.label(version):
                    await unlabel(server, version)
                    await meeting.take_part(server.url)
                    await reset_prefix_cache(server)
                await confirm(server, version)
        except TrainerError as error:
            failure = WeightUpdateFailed(f"{server.url} did not take version {version}: {error}")
            failure.__cause__ = error
            return failure
        finally:
            meeting.is_done_with(server.url)
        return None

    async def _transfer(self, meeting: Meeting, servers: Sequence[VllmServer], directory: Path, version: int) -> None:
        """Once it is known who takes part, bring them the weights, and tell each how it went."""
        ready = await meeting.who()
        failures: Failures = {}
        try:
            failures = await self._group.bring(
                [server for server in servers if server.url in ready], directory, version
            )
        except TrainerError as error:
            failures = dict.fromkeys(ready, error)
        except BaseException:
            failures = dict.fromkeys(ready, WeightUpdateFailed("the update was given up"))
            raise
        finally:
            meeting.conclude(failures)


class Meeting:
    """Who of the invited takes part? Known once each has said so or has left. Pure: no calls, no clock."""

    def __init__(self, invited: Sequence[str]) -> None:
        self._awaited = set(invited)
        self._ready: set[str] = set()
        self._everybody = asyncio.Event()
        self._outcome: asyncio.Future[Failures] = asyncio.get_running_loop().create_future()
        self._look()

    async def take_part(self, name: str) -> None:
        """Join and wait for the end.

        Raises:
            TrainerError: it went wrong for `name`.
        """
        self._ready.add(name)
        self.is_done_with(name)
        failures = await asyncio.shield(self._outcome)
        if name in failures:
            raise failures[name]

    def is_done_with(self, name: str) -> None:
        """Wait for `name` no longer: it has joined, or it will not."""
        self._awaited.discard(name)
        self._look()

    async def who(self) -> set[str]:
        """Wait until nobody is awaited any more, and return who has joined."""
        await self._everybody.wait()
        return set(self._ready)

    def conclude(self, failures: Failures) -> None:
        """Let go of all who joined."""
        if not self._outcome.done():
            self._outcome.set_result(failures)

    def _look(self) -> None:
        if not self._awaited:
            self._everybody.set()
