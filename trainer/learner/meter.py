"""What a step costs: seconds, tokens per second, memory.

Owns the clock and the counters of memory; one meter per step.
"""

from __future__ import annotations

import resource
import sys
import time

import torch

RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024
"""The unit of `ru_maxrss`: bytes on macOS, kibibytes on Linux."""


class Meter:
    """Starts to count where it is made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def per_second(self, tokens: int) -> float:
        """Return tokens over the seconds since the start, the device's work included."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return tokens / max(time.perf_counter() - self._began, sys.float_info.epsilon)

    def peak_memory_bytes(self) -> int:
        """Return the most that this rank has had allocated on its GPU since the start; on CPUs the process's peak ever."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES
