"""Publishes exported weights to vLLM servers through a directory that both sides can read.

The order for each server: hold -> start -> update -> finish with the version -> reset of the prefix cache -> let go, whatever
happened (`holding.py`). A server counts as updated when it shows the new version; one that failed is out of the pool until
it has caught up. Servers need `vllm_extension.py`.
"""

from __future__ import annotations

from pathlib import Path

from trainer.errors import GenerationFailed, WeightUpdateFailed
from trainer.rollouts.pool import ServerPool
from trainer.rollouts.vllm import ServerUnusable, VllmServer
from trainer.weights.decoding import teach_to_decode
from trainer.weights.exports import KEEP_EXPORTS, prune, require_stable
from trainer.weights.holding import STEP_S, end_unfinished, finish, held, reset_prefix_cache, start, unlabel


class FilesystemPublisher:
    """Obeys `trainer.types.WeightPublisher` for a pool of vLLM servers."""

    def __init__(self, pool: ServerPool, *, keep: int = KEEP_EXPORTS) -> None:
        self._pool = pool
        self._keep = keep

    async def close(self) -> None:
        """Release nothing: nothing is held."""

    async def publish(self, directory: Path, version: int) -> None:
        """Load `directory`, made by `exports.export_directory`, everywhere; afterwards older exports are removed.

        Servers that fail are out of the pool until they have caught up.

        Raises:
            WeightUpdateFailed: the export is not complete, or not one server could be brought to `version`.
        """
        require_stable(directory)

        async def bring(server: VllmServer) -> None:
            await load_weights(server, directory, version, drain=self._pool.continues)

        teach_to_decode(self._pool, directory)
        failures = await self._pool.update(bring)
        if self._pool.in_service == 0:
            raise WeightUpdateFailed(f"no server reached version {version}: {failures}")
        prune(directory.parent, keep=self._keep)


async def load_weights(server: VllmServer, directory: Path, version: int, *, drain: bool = False) -> None:
    """Bring one server to `version`; does nothing but resume it where it shows that version already.

    Raises:
        WeightUpdateFailed: it does not show `version` afterwards; it must not generate until a later update succeeds.
    """
    try:
        async with held(server, drain=drain):
            if await server.version() != server.label(version):
                await _update(server, directory, version)
            await confirm(server, version)
    except GenerationFailed as error:
        raise WeightUpdateFailed(f"{server.url} did not take version {version}: {error}") from error


async def confirm(server: VllmServer, version: int) -> None:
    """Check that a server shows `version`, and let calls begin under it.

    Raises:
        WeightUpdateFailed: it shows another one.
    """
    shown = await server.version()
    if shown != server.label(version):
        raise WeightUpdateFailed(f"{server.url} shows version {shown!r} after an update to {version}")
    server.published = version


async def _update(server: VllmServer, directory: Path, version: int) -> None:
    await unlabel(server, version)
    try:
        await _load(server, directory, version)
    except ServerUnusable:
        await end_unfinished(server)
        await _load(server, directory, version)
    await reset_prefix_cache(server)


async def _load(server: VllmServer, directory: Path, version: int) -> None:
    await start(server)
    await server.call("POST", "/update_weights", json=_update_info(directory), timeout_s=STEP_S)
    await finish(server, version)


def _update_info(directory: Path) -> dict[str, dict[str, str]]:
    return {"update_info": {"path": str(directory.absolute())}}
