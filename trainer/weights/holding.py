"""A server held still while its weights change: what every back end that changes them in place has in common.

The order is always the same: hold (pause), change label and weights, reset the prefix cache, which a change of weights
does not clear, let go (resume) whatever happened.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from trainer.errors import GenerationFailed
from trainer.rollouts.vllm import ServerUnusable, VllmServer

log = logging.getLogger(__name__)

LOADING = "loading-"
"""Prefix of the label that a server shows while its weights change: equal to no version."""
STEP_S = 120.0
"""Longest wait for one step of an update: reading some 15 GB from a local disk."""
SMALL_S = 30.0
"""Longest wait for what moves no weights, repetitions included: a server that takes longer stands still, and each server
that stands still holds up all others once, in whatever part of an update it stopped."""
HOLD_S = 30.0
"""Longest wait for pausing, aborting and resuming, which do no work of their own."""
RESET_ATTEMPTS = 20
RESET_PAUSE_S = 0.1
"""The prefix cache is reset only once its last block is free: 2 s for what pausing has left behind."""
INSIST_ATTEMPTS = 3
"""Calls of /abort_requests or /resume before the server is given up: one more than a closed connection costs."""
DRAIN_ATTEMPTS = 30
DRAIN_LOOK_S = 1.0
"""What was under way must have returned after a pause that aborts it: at once as a rule. A call that reached the server
just after the pause waits in its queue, so the abort is repeated."""


@asynccontextmanager
async def held(server: VllmServer, *, drain: bool) -> AsyncIterator[None]:
    """Hold a server's requests back inside the block; they are let go however the block ends.

    Args:
        server: whose.
        drain: end what is under way and let nothing in, so that each call ends under the weights it began with; those who
            asked go on from what they got. Otherwise requests stay in the server, frozen; as right where none is under way.

    Raises:
        GenerationFailed: it did not pause, or did not resume; it must not serve.
    """
    async with _drained(server) if drain else _frozen(server):
        yield


@asynccontextmanager
async def _frozen(server: VllmServer) -> AsyncIterator[None]:
    """If the block ends badly the weights may be torn, so what was held back is aborted rather than continued on them."""
    try:
        await server.call("POST", "/pause", timeout_s=HOLD_S, mode="keep")
        yield
    except BaseException:
        with suppress(GenerationFailed):
            await insist(server, "/abort_requests")
        raise
    finally:
        await insist(server, "/resume")


@asynccontextmanager
async def _drained(server: VllmServer) -> AsyncIterator[None]:
    server.gate.close()
    try:
        try:
            await server.call("POST", "/pause", timeout_s=HOLD_S, mode="abort")
            await _until_empty(server)
            yield
        finally:
            await insist(server, "/resume")
    finally:
        server.gate.open()


async def _until_empty(server: VllmServer) -> None:
    for _ in range(DRAIN_ATTEMPTS):
        if await server.gate.is_empty(DRAIN_LOOK_S):
            return
        await insist(server, "/abort_requests")
    raise ServerUnusable(f"{server.url} did not end its calls within {DRAIN_ATTEMPTS * DRAIN_LOOK_S:.0f} s of a pause")


async def insist(server: VllmServer, path: str) -> None:
    """Call a route that is safe to repeat; a server may close the connection that an error was sent on."""
    async with _at_once(server, path):
        for _ in range(INSIST_ATTEMPTS - 1):
            with suppress(ServerUnusable):
                await server.call("POST", path, json={}, timeout_s=STEP_S)
                return
        await server.call("POST", path, json={}, timeout_s=STEP_S)


@asynccontextmanager
async def _at_once(server: VllmServer, path: str) -> AsyncIterator[None]:
    """Bound all that is asked in the block: who stands still is not asked again."""
    try:
        async with asyncio.timeout(SMALL_S):
            yield
    except TimeoutError as error:
        raise ServerUnusable(f"{server.url}{path} had no answer within {SMALL_S:.0f} s") from error


async def unlabel(server: VllmServer, version: int) -> None:
    """Take the label away before the weights change, so that no sample of torn weights can pass for a version."""
    label = f"{LOADING}{server.label(version)}"
    await server.call("POST", "/update_weight_version", json={"new_version": label}, timeout_s=SMALL_S)


async def start(server: VllmServer) -> None:
    """Begin an update."""
    await server.call("POST", "/start_weight_update", timeout_s=SMALL_S)


async def end_unfinished(server: VllmServer) -> None:
    """End an update that its trainer never finished: an update of nothing fails, and a failed one is over."""
    async with _at_once(server, "/update_weights"):
        with suppress(ServerUnusable):
            await server.call("POST", "/update_weights", json={"update_info": {}}, timeout_s=STEP_S)


async def finish(server: VllmServer, version: int) -> None:
    """End an update whose weights are complete, and name them."""
    await server.call("POST", "/finish_weight_update", json={"weight_version": server.label(version)}, timeout_s=STEP_S)


async def reset_prefix_cache(server: VllmServer) -> None:
    """Forget what was computed under the old weights."""
    for _ in range(RESET_ATTEMPTS):
        if (await server.call("POST", "/reset_prefix_cache", timeout_s=SMALL_S))["success"]:
            return
        await asyncio.sleep(RESET_PAUSE_S)
    log.warning(
        "%s keeps its prefix cache; requests are salted with their version, so no answer comes from it", server.url
    )
