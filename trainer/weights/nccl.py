"""Weights over NCCL: the learner's end of vLLM's own engine. Needs vLLM (0.32) and a GPU in the learner's environment.

vLLM is imported only when a group is opened, so that its absence is an error of configuration and no crash of a run
that does not ask for it. Written against vLLM's source and never run: no GPU was at hand. What surrounds it
(`broadcast.py`) is the same code that the Gloo back end runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from trainer.errors import ConfigError
from trainer.servers import free_port
from trainer.weights.transport import Named


class NcclTransport:
    """Obeys `trainer.weights.transport.Transport`.

    Raises:
        ConfigError: there is no GPU or no vLLM here.
    """

    def __init__(self, address: str) -> None:
        if not torch.cuda.is_available():
            raise ConfigError('weights.backend = "nccl" needs a GPU in the learner; use "filesystem" without one')
        try:
            from vllm.distributed.weight_transfer import nccl_common, packed_tensor  # noqa: PLC0415 - see above
        except ImportError as error:
            raise ConfigError(
                'weights.backend = "nccl" needs vllm in the learner\'s own environment (pip install vllm==0.32.0); '
                'use "filesystem" without it'
            ) from error
        self._meet, self._pack = nccl_common, packed_tensor
        self._address = address
        self._device = torch.cuda.current_device()
        self._place: dict[str, Any] = {}
        self._group: Any = None

    def listen(self, world_size: int) -> dict[str, Any]:
        """Choose a port; the store behind it opens in `connect`, and the others wait for it."""
        self._place = {
            "master_address": self._address,
            "master_port": free_port(self._address),
            "world_size": world_size,
        }
        return {
            **self._place,
            "packed": True,
            "packed_buffer_size_bytes": self._pack.DEFAULT_PACKED_BUFFER_SIZE_BYTES,
            "packed_num_buffers": self._pack.DEFAULT_PACKED_NUM_BUFFERS,
        }

    def connect(self) -> None:
        """Meet the others; the current device is a thread's own, so it is set again."""
        torch.cuda.set_device(self._device)
        self._group = self._meet.trainer_init(self._place)

    def send(self, tensors: Iterator[Named]) -> None:
        """Send the tensors in buffers of many, and wait until they have left."""
        if self._group is None:
            raise RuntimeError("the group was closed")
        torch.cuda.set_device(self._device)
        self._pack.packed_nccl_broadcast_producer(
            iterator=((name, tensor.to(self._device)) for name, tensor in tensors),
            group=self._group,
            src=0,
            post_iter_func=lambda item: item[1],
        )
        torch.cuda.current_stream().synchronize()

    def close(self) -> None:
        """Abort the communicator, which also ends a kernel that waits for a lost member; bounded by vLLM to 5 s."""
        group, self._group = self._group, None
        if group is not None:
            group.destroy()
