"""What is kept of one prompt under one policy: how many rows, and the cells of its newest versions, packed.

The sums are exact, so neither the order of rows nor their batches can change a bit: successes are rounded to multiples
of 2^-30, which doubles add without error up to eight million; and of the versions the newest `RECENT` are kept, a set
that does not depend on the order in which they came. Pure: no SQL.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from rollout_budget.wire import EvidenceRow
from services.prior_api.records import Cell

RECENT = 4
"""Versions per prompt: a prompt is met once an epoch, and by then the policy has moved; bounds what a request reads."""
GRID = 2.0**30
_CELL = struct.Struct("<iiqd")
"""Version, rows, trials, successes."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Evidence of one prompt and version."""

    version: int
    rows: int
    trials: int
    successes: float


@dataclass(frozen=True, slots=True)
class History:
    """One prompt under one policy.

    Attributes:
        rows: of all versions.
        recent: the newest versions, newest first, at most `RECENT`.
    """

    rows: int = 0
    recent: tuple[Sums, ...] = ()

    def add(self, rows: Iterable[EvidenceRow]) -> History:
        """Return the history with these rows of the prompt added."""
        sums = {cell.version: cell for cell in self.recent}
        oldest = min(sums) if len(sums) == RECENT else -1
        count = 0
        for row in rows:
            count += 1
            if row.version >= oldest:
                old = sums.get(row.version) or Sums(row.version, 0, 0, 0.0)
                sums[row.version] = Sums(
                    row.version, old.rows + 1, old.trials + row.trials, old.successes + exact(row.successes)
                )
        newest = sorted(sums.values(), key=lambda cell: -cell.version)[:RECENT]
        return History(self.rows + count, tuple(newest))

    def pack(self) -> bytes:
        """Return the cells as bytes."""
        return b"".join(_CELL.pack(cell.version, cell.rows, cell.trials, cell.successes) for cell in self.recent)

    @classmethod
    def unpack(cls, rows: int, data: bytes) -> History:
        """Undo `pack`."""
        return cls(rows, tuple(Sums(*cell) for cell in _CELL.iter_unpack(data)))


def cells(team: str, policy: str, key: str, text_hash: str | None, data: bytes) -> list[Cell]:
    """Return packed cells as records, newest version first."""
    return [
        Cell(team, policy, key, text_hash, version, successes, trials, rows)
        for version, rows, trials, successes in _CELL.iter_unpack(data)
    ]


def exact(successes: float) -> float:
    """Round to what doubles add without error."""
    return round(successes * GRID) / GRID


def draw(key: str) -> int:
    """Return the place of a prompt among those of one version, in [0, 2^31): alike for all policies and versions."""
    return zlib.crc32(key.encode()) >> 1
