"""Wall and processor time of a piece of work, and what is printed of several."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Times:
    """Seconds of repeated work: on the wall and on processors, this process's unless another is named."""

    process: int | None = None
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    @contextmanager
    def once(self) -> Iterator[None]:
        """Measure the block."""
        wall, cpu = time.perf_counter(), self._cpu()
        yield
        self.wall_s.append(time.perf_counter() - wall)
        self.cpu_s.append(self._cpu() - cpu)

    def _cpu(self) -> float:
        if self.process is None:
            return time.process_time()
        fields = Path(f"/proc/{self.process}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def __str__(self) -> str:
        """Median and range in milliseconds; processor time of another process is counted in steps of 10 ms: its mean."""
        cpu = f"{ms(self.cpu_s)} cpu" if self.process is None else f"{1e3 * statistics.mean(self.cpu_s):.1f} cpu (mean)"
        return f"{ms(self.wall_s)} wall, {cpu}"


def ms(seconds: Sequence[float]) -> str:
    """Return `median (low to high)` in milliseconds."""
    low, middle, high = (1e3 * figure for figure in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def rss_mb(process: int | None = None) -> float:
    """Return resident memory now."""
    pages = Path(f"/proc/{process or os.getpid()}/statm").read_text("ascii").split()[1]
    return int(pages) * PAGE_BYTES / 2**20


def machine() -> str:
    """Return processor, cores and load, in one line."""
    names = [line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    return f"{name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
