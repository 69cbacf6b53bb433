"""Weights over Gloo: broadcasts between CPUs. Needs torch. Its other end is `GlooEngine` of `vllm_extension.py`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from torch._C import _distributed_c10d as c10d

from trainer.weights.transport import Named

TIMEOUT = timedelta(seconds=60)
"""Longest wait for the others to join, and for one tensor; the same on the servers."""
PREFIX = "weights"
"""Part of the keys under which members meet; the same in `vllm_extension.py`."""


class GlooTransport:
    """Obeys `trainer.weights.transport.Transport`."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._size = 0
        self._store: c10d.TCPStore | None = None
        self._group: Any = None  # torch's stubs know nothing of its broadcast

    def listen(self, world_size: int) -> dict[str, Any]:
        """Open the meeting place on a free port."""
        self._size = world_size
        self._store = c10d.TCPStore(
            self._address, 0, world_size, is_master=True, timeout=TIMEOUT, wait_for_workers=False
        )
        return {"master_address": self._address, "master_port": self._store.port, "world_size": world_size}

    def connect(self) -> None:
        """Meet the others."""
        if self._store is None:
            raise RuntimeError("the group was closed")
        self._group = c10d.ProcessGroupGloo(c10d.PrefixStore(PREFIX, self._store), 0, self._size, TIMEOUT)

    def send(self, tensors: Iterator[Named]) -> None:
        """Send each tensor as bytes, whatever its dtype.

        An error keeps nothing of the group alive: others that wait in it notice only once it is gone.
        """
        problem = ""
        try:
            for _, tensor in tensors:
                self._broadcast(tensor)
        except RuntimeError as error:
            problem = str(error)
        if problem:
            raise RuntimeError(problem)

    def close(self) -> None:
        """Drop the group, which closes its connections; `abort` alone leaves them open (seen with torch 2.13)."""
        group, self._group, self._store = self._group, None, None
        if group is not None:
            group.abort()

    def _broadcast(self, tensor: torch.Tensor) -> None:
        if self._group is None:
            raise RuntimeError("the group was closed")
        options = c10d.BroadcastOptions()
        options.rootRank = 0
        self._group.broadcast([tensor.contiguous().reshape(-1).view(torch.uint8)], options).wait()
