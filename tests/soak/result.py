"""What one layer of a soak did, and the table of all."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path


@dataclass(slots=True)
class Result:
    """One layer.

    Attributes:
        operations: how many `unit` it did.
        faults: injected, by kind.
        violations: what must not be, in words; empty is good.
        seeds: what to give it to see the same again, as far as that is possible.
        notes: figures beside.
    """

    layer: str
    unit: str
    seconds: float = 0.0
    operations: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    seeds: str = ""
    notes: list[str] = field(default_factory=list)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def table(results: Sequence[Result]) -> str:
    """Return the table that ends a soak, with the faults by kind under it."""
    head = ("layer", "minutes", "operations", "", "per minute", "faults", "violations", "seeds")
    rows = [
        (
            one.layer,
            f"{one.seconds / 60:.1f}",
            f"{one.operations:,}",
            one.unit,
            f"{one.operations / max(one.seconds, 1e-9) * 60:,.0f}",
            f"{one.faults.total():,}",
            str(len(one.violations)),
            one.seeds,
        )
        for one in results
    ]
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]
    total = sum(one.seconds for one in results)
    lines.append(
        f"{total / 60:.1f} minutes, {sum(one.operations for one in results):,} operations, "
        f"{sum(one.faults.total() for one in results):,} faults, {sum(len(one.violations) for one in results)} violations"
    )
    for one in results:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(one.faults.items()))
        lines += [f"{one.layer}: {what}" for what in ([f"faults: {kinds}"] if kinds else []) + one.notes]
        lines += [f"{one.layer}: VIOLATION {what}" for what in one.violations[:20]]
    return "\n".join(lines)


def write(results: Sequence[Result], path: Path) -> None:
    """Write the same as JSON, with the machine it ran on."""
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "layers": [_plain(one) for one in results]}, indent=1) + "\n")


def _plain(result: Result) -> dict[str, object]:
    return {one.name: getattr(result, one.name) for one in fields(result)}
