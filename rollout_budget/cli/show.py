"""What a command prints: the wire types as JSON for programs, aligned columns for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeGuard

from pydantic import BaseModel

from rollout_budget.cli.parsing import Options

GROUPED_FROM = 10_000
"""Whole numbers from here on are shown with separators."""


def answer(options: Options, model: BaseModel, table: Sequence[Sequence[object]], header: Sequence[str] = ()) -> None:
    """Print an answer: as JSON where that was asked for, else as a table."""
    sys.stdout.write(model.model_dump_json(indent=2) + "\n" if options.json else columns(table, header))


def columns(rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Return rows as left-aligned columns."""
    cells = [[text(cell) for cell in row] for row in ([header, *rows] if header else rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in cells
    )


def one(options: Options, model: BaseModel) -> None:
    """Print one thing: as JSON where that was asked for, else name and value, one a line, and its lists as tables."""
    if options.json:
        sys.stdout.write(model.model_dump_json(indent=2) + "\n")
        return
    values = dict(_flat(model.model_dump(), ""))
    tables = {name: value for name, value in values.items() if _is_table(value)}
    lines = [(name, _plain(name, value)) for name, value in values.items() if not isinstance(value, list)]
    sys.stdout.write(columns(lines))
    for name, rows in tables.items():
        header = [column.upper() for column in rows[0]]
        sys.stdout.write(f"\n{name}\n{columns([list(row.values()) for row in rows], header)}")


def difference(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> str:
    """Return what differs between two states, as `name: old -> new`; of what is new, what it is."""
    old, new = (dict(_flat(state or {}, "")) for state in (before, after))
    if before is None:
        return ", ".join(f"{name}: {text(value)}" for name, value in new.items() if value is not None)
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name}: {text(old.get(name))} -> {text(new.get(name))}" for name in changed)


def text(value: object) -> str:
    """Return one value as a person reads it."""
    if value is None:
        return "none"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        shown = f"{value:,}" if abs(value) >= GROUPED_FROM else str(value)
        return shown.removesuffix(".0")
    return json.dumps(value, default=text) if isinstance(value, (list, dict)) else str(value)


def _plain(name: str, value: object) -> object:
    unbounded = value is None and name.startswith("available")
    return "unlimited" if unbounded else value  # `none` would read as nothing left


def _is_table(value: object) -> TypeGuard[list[dict[str, object]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _flat(part: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in part.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
