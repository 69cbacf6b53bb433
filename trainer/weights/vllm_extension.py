"""What a vLLM server needs to take weights from a directory or over Gloo: weight-transfer engines `fs` and `gloo`.

Runs inside vLLM's own environment, which knows nothing of this project: import vLLM, torch and safetensors here, nothing
else. The worker imports this module for `--worker-extension-cls vllm_extension.Extension`, before the model is loaded,
and the import registers the engines. Written against vLLM 0.32. The wire form of `fs` (`{"path": DIR}`) is that of the `disk`
engine of later versions, that of `gloo` is `nccl`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch._C import _distributed_c10d as c10d
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

STABLE = "STABLE"
"""The file that an export writes last; the same name as in `exports.py`."""
TIMEOUT = timedelta(seconds=60)
"""Longest wait for a learner to open its group, and for one tensor: a learner that died must not hold the engine for long."""
PREFIX = "weights"
"""Part of the keys under which members meet; the same as in `gloo.py`."""


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
        """Receive weights; unlike the base class, without a device synchronisation, which CPUs lack.

        After a failure the model's layers are put together again, whatever they hold: left half open, they would refuse
        the next update too.
        """
        try:
            self.receive_weights(self.parse_update_info(update_info))
        except BaseException:
            with suppress(Exception):
                finalize_layerwise_reload(self.model, self.model_config)
            raise

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


@dataclass
class GlooInit(WeightTransferInitInfo):  # type: ignore[misc] # vLLM lives in another environment
    """Where a learner waits, and this server's place in its group."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int


@dataclass
class GlooUpdate(WeightTransferUpdateInfo):  # type: ignore[misc] # vLLM lives in another environment
    """The tensors that will come, in their order; or a directory instead, as the `fs` engine takes it."""

    names: list[str] = field(default_factory=list)
    dtype_names: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)
    path: str = ""


class GlooEngine(FilesystemEngine):
    """Receives tensors that rank 0 of a group broadcasts as bytes."""

    init_info_cls = GlooInit
    update_info_cls = GlooUpdate
    _group: Any = None  # torch's stubs know nothing of its broadcast

    def init_transfer_engine(self, init_info: GlooInit) -> None:
        """Join a group; the one before, if any, is left."""
        self.shutdown()
        parallel = self.parallel_config
        own = parallel.data_parallel_index * parallel.world_size + parallel.rank
        store = c10d.TCPStore(
            init_info.master_address, init_info.master_port, init_info.world_size, is_master=False, timeout=TIMEOUT
        )
        self._group = c10d.ProcessGroupGloo(
            c10d.PrefixStore(PREFIX, store), init_info.rank_offset + own, init_info.world_size, TIMEOUT
        )

    def receive_weights(self, update_info: GlooUpdate) -> None:
        """Load what is broadcast; a group that failed is left.

        Raises:
            ValueError: the update is of nothing.
            RuntimeError: a member was lost on the way; the model is torn until another update succeeds.
        """
        if update_info.path:
            super().receive_weights(FilesystemUpdate(update_info.path))
            return
        if not update_info.names:
            raise ValueError("an update of no tensors")
        try:
            self.model.load_weights(self._received(update_info))
        except BaseException:
            self.shutdown()
            raise

    def _received(self, update_info: GlooUpdate) -> Iterator[tuple[str, torch.Tensor]]:
        options = c10d.BroadcastOptions()
        options.rootRank = 0
        for name, dtype, shape in zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True):
            if self._group is None:
                raise RuntimeError("no group: /init_weight_transfer_engine comes first")
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            self._group.broadcast([tensor.reshape(-1).view(torch.uint8)], options).wait()
            yield name, tensor

    def shutdown(self) -> None:
        """Leave the group."""
        group, self._group = self._group, None
        if group is not None:
            group.abort()


def _tensors(files: list[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping, it cannot be iterated over
                yield name, tensors.get_tensor(name)


for _name, _engine in (("fs", FilesystemEngine), ("gloo", GlooEngine)):
    if _name not in WeightTransferEngineFactory._registry:  # noqa: SLF001 - the module may be loaded twice
        WeightTransferEngineFactory.register_engine(_name, _engine)


class Extension:
    """Named on the server's command line so that this module is imported; adds no method to the worker."""
