"""Publishes adapters (LoRA): a new name per version, so that nothing that is under way notices.

For each server: load the new adapter, then unload those of this run that no call needs. A request names its adapter as its
model, and an adapter never changes, so no pause, no label and no reset of a cache is needed (vLLM keys its cache by
adapter). A server that was away loads the current adapter before it serves. An adapter is never loaded over another one of
its name: vLLM may read its folder again at any time, and dies if that is gone.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from trainer.errors import GenerationFailed, WeightUpdateFailed
from trainer.rollouts.pool import ServerPool
from trainer.rollouts.vllm import UnknownModel, VllmServer
from trainer.weights.decoding import teach_to_decode
from trainer.weights.exports import KEEP_EXPORTS, prune, require_stable
from trainer.weights.holding import STEP_S


class AdapterPublisher:
    """Obeys `trainer.types.WeightPublisher` for a pool of vLLM servers whose clients were made with `adapters=True`."""

    def __init__(self, pool: ServerPool, *, keep: int = KEEP_EXPORTS) -> None:
        self._pool = pool
        self._keep = keep
        self._oldest: dict[str, int] = {}

    async def close(self) -> None:
        """Release nothing: nothing is held."""

    async def publish(self, directory: Path, version: int) -> None:
        """Load the adapter in `directory`, made by `exports.export_directory`, everywhere; older folders go once unused.

        Servers that fail are out of the pool until they have caught up.

        Raises:
            WeightUpdateFailed: the export is not complete, or not one server could load it.
        """
        require_stable(directory)

        async def bring(server: VllmServer) -> None:
            self._oldest[server.url] = await load_adapter(server, directory, version)

        teach_to_decode(self._pool, directory)
        failures = await self._pool.update(bring)
        if self._pool.in_service == 0:
            raise WeightUpdateFailed(f"no server loaded the adapter of version {version}: {failures}")
        prune(directory.parent, keep=self._keep, unused_below=min(self._oldest.values()))


async def load_adapter(server: VllmServer, directory: Path, version: int) -> int:
    """See to it that a server holds the adapter of `version`, and to no others of this run but those in use.

    Returns:
        The oldest version that the server still holds.

    Raises:
        WeightUpdateFailed: it does not hold `version`; it must not generate until a later attempt succeeds.
    """
    try:
        names = await _adapters(server)
        if server.adapter(version) not in names:
            await server.call(
                "POST", "/v1/load_lora_adapter", json=_adapter(server.adapter(version), directory), timeout_s=STEP_S
            )
        server.published = version
        needed = {held for held, calls in server.in_use.items() if calls > 0} | {version}
        for name in names - {server.adapter(held) for held in needed}:
            with suppress(UnknownModel):
                await server.call("POST", "/v1/unload_lora_adapter", json={"lora_name": name}, timeout_s=STEP_S)
    except GenerationFailed as error:
        raise WeightUpdateFailed(f"{server.url} did not load the adapter of version {version}: {error}") from error
    return min(needed)


def _adapter(name: str, directory: Path) -> dict[str, str]:
    return {"lora_name": name, "lora_path": str(directory.absolute())}


async def _adapters(server: VllmServer) -> set[str]:
    """Return the names of this run's adapters that a server holds, those of its earlier starts included.

    A run that is started for the nth time ends its name in `.n`.
    """
    models = (await server.call("GET", "/v1/models", timeout_s=STEP_S))["data"]
    any_start = re.escape(re.sub(r"\.\d+$", "", server.adapters_of_run))
    ours = re.compile(any_start + r"(\.\d+)?-[0-9a-f]{8}-v\d+")
    return {str(model["id"]) for model in models if ours.fullmatch(str(model["id"]))}
