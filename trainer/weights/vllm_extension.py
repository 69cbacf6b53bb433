"""What a vLLM server needs to take weights from a directory: a weight-transfer engine named `fs`.

Runs inside vLLM's own environment, which knows nothing of this project: import vLLM, torch and safetensors here, nothing
else. The worker imports this module for `--worker-extension-cls vllm_extension.Extension`, before the model is loaded,
and the import registers the engine. Written against vLLM 0.32; its wire form (`{"path": DIR}`) is that of the `disk`
engine of later versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

if TYPE_CHECKING:
    import torch

STABLE = "STABLE"
"""The file that an export writes last; the same name as in `exports.py`."""


@dataclass
class FilesystemInit(WeightTransferInitInfo):  # type: ignore[misc] # vLLM lives in another environment
    """Nothing to agree on beforehand."""


@dataclass
class FilesystemUpdate(WeightTransferUpdateInfo):  # type: ignore[misc] # vLLM lives in another environment
    """Where the new weights are: a directory that the server can read, complete (marked STABLE)."""

    path: str


class FilesystemEngine(WeightTransferEngine):  # type: ignore[misc] # vLLM lives in another environment
    """Loads every tensor of every safetensors file of a directory, under its Hugging Face name."""

    init_info_cls = FilesystemInit
    update_info_cls = FilesystemUpdate

    def init_transfer_engine(self, init_info: FilesystemInit) -> None:
        """Accept; a directory needs no connection."""

    def start_weight_update(self) -> None:
        """Put the model into a state that takes checkpoint tensors layer by layer."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load the directory; unlike the base class, without a device synchronisation, which CPUs lack."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: FilesystemUpdate) -> None:
        """Load the directory.

        Raises:
            FileNotFoundError: it is not marked complete or holds no weights; the model keeps what it had.
        """
        directory = Path(update_info.path)
        files = sorted(directory.glob("*.safetensors"))
        if not files or not (directory / STABLE).is_file():
            raise FileNotFoundError(f"{directory} is not a complete export: {len(files)} files of weights")
        self.model.load_weights(_tensors(files))

    def finish_weight_update(self) -> None:
        """Bring the loaded tensors into the form that the kernels use."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Release nothing: nothing is held."""


def _tensors(files: list[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping, it cannot be iterated over
                yield name, tensors.get_tensor(name)


if "fs" not in WeightTransferEngineFactory._registry:  # noqa: SLF001 - the module may be loaded twice
    WeightTransferEngineFactory.register_engine("fs", FilesystemEngine)


class Extension:
    """Named on the server's command line so that this module is imported; adds no method to the worker."""
