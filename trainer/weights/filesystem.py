"""Publishes exported weights to vLLM servers through a directory that both sides can read.

The order for each server: pause (requests stay, frozen) -> start -> update -> finish with the version -> reset of the
prefix cache, which a weight update does not clear -> resume, whatever happened. A server counts as updated when it shows
the new version; one that failed is out of the pool until it has caught up. Servers need `vllm_extension.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from trainer.errors import GenerationFailed, WeightUpdateFailed
from trainer.rollouts.pool import ServerPool
from trainer.rollouts.vllm import ServerUnusable, VllmServer
from trainer.weights.exports import KEEP_EXPORTS, prune, require_stable

log = logging.getLogger(__name__)

LOADING = "loading-"
"""Prefix of the label that a server shows while its weights change: equal to no version."""
STEP_S = 120.0
"""Longest wait for one step of an update: reading some 15 GB from a local disk."""
RESET_ATTEMPTS = 20
RESET_PAUSE_S = 0.1
"""The prefix cache is reset only once its last block is free: 2 s for what pausing has left behind."""
INSIST_ATTEMPTS = 3
"""Calls of /abort_requests or /resume before the server is given up: one more than a closed connection costs."""


class FilesystemPublisher:
    """Obeys `trainer.types.WeightPublisher` for a pool of vLLM servers."""

    def __init__(self, pool: ServerPool, *, keep: int = KEEP_EXPORTS) -> None:
        self._pool = pool
        self._keep = keep

    async def publish(self, directory: Path, version: int) -> None:
        """Load `directory`, made by `exports.export_directory`, everywhere; afterwards older exports are removed.

        Servers that fail are out of the pool until they have caught up.

        Raises:
            WeightUpdateFailed: the export is not complete, or not one server could be brought to `version`.
        """
        require_stable(directory)

        async def bring(server: VllmServer) -> None:
            await load_weights(server, directory, version)

        failures = await self._pool.update(bring)
        if self._pool.in_service == 0:
            raise WeightUpdateFailed(f"no server reached version {version}: {failures}")
        prune(directory.parent, keep=self._keep)


async def load_weights(server: VllmServer, directory: Path, version: int) -> None:
    """Bring one server to `version`; does nothing but resume it where it shows that version already.

    Raises:
        WeightUpdateFailed: it does not show `version` afterwards; it must not generate until a later update succeeds.
    """
    try:
        async with _paused(server):
            if await server.version() != server.label(version):
                await _update(server, directory, version)
        shown = await server.version()
    except GenerationFailed as error:
        raise WeightUpdateFailed(f"{server.url} did not take version {version}: {error}") from error
    if shown != server.label(version):
        raise WeightUpdateFailed(f"{server.url} shows version {shown!r} after an update to {version}")


@asynccontextmanager
async def _paused(server: VllmServer) -> AsyncIterator[None]:
    """Hold back the server's requests inside the block; they are let go however the block ends.

    If it ends badly the weights may be torn, so what was held back is aborted rather than continued on them.
    """
    try:
        await server.call("POST", "/pause", timeout_s=STEP_S, mode="keep")
        yield
    except BaseException:
        with suppress(GenerationFailed):
            await _insist(server, "/abort_requests")
        raise
    finally:
        await _insist(server, "/resume")


async def _insist(server: VllmServer, path: str) -> None:
    """Call a route that is safe to repeat; a server may close the connection that an error was sent on."""
    for _ in range(INSIST_ATTEMPTS - 1):
        with suppress(ServerUnusable):
            await server.call("POST", path, json={}, timeout_s=STEP_S)
            return
    await server.call("POST", path, json={}, timeout_s=STEP_S)


async def _update(server: VllmServer, directory: Path, version: int) -> None:
    """Change label and weights; the label first, so that no sample of torn weights can pass for either version."""
    await server.call(
        "POST", "/update_weight_version", json={"new_version": f"{LOADING}{server.label(version)}"}, timeout_s=STEP_S
    )
    try:
        await _load(server, directory, version)
    except ServerUnusable:
        with suppress(ServerUnusable):  # this one must fail, and ends an update that its trainer never finished
            await server.call("POST", "/update_weights", json={"update_info": {}}, timeout_s=STEP_S)
        await _load(server, directory, version)
    for _ in range(RESET_ATTEMPTS):
        if (await server.call("POST", "/reset_prefix_cache", timeout_s=STEP_S))["success"]:
            return
        await asyncio.sleep(RESET_PAUSE_S)
    log.warning(
        "%s keeps its prefix cache; requests are salted with their version, so no answer comes from it", server.url
    )


async def _load(server: VllmServer, directory: Path, version: int) -> None:
    await server.call("POST", "/start_weight_update", timeout_s=STEP_S)
    await server.call("POST", "/update_weights", json=_update_info(directory), timeout_s=STEP_S)
    await server.call("POST", "/finish_weight_update", json={"weight_version": server.label(version)}, timeout_s=STEP_S)


def _update_info(directory: Path) -> dict[str, dict[str, str]]:
    return {"update_info": {"path": str(directory.absolute())}}
