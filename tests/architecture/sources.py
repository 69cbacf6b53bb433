"""The repository's Python files and what they import, read without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.paths import ROOT

ROOMS = ("rollout_budget", "services", "trainer", "benchmarks", "scripts", "tests")


@dataclass(frozen=True)
class Source:
    """One file; `name` is its dotted module name."""

    path: Path
    name: str
    text: str

    def __str__(self) -> str:
        return self.name

    @property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text)

    def imports(self) -> Iterator[str]:
        """Every module that is imported, wherever in the file and under whatever condition; `from a import b` as `a.b`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{self.path}: relative import"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Every function and method."""
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield node


@cache
def sources() -> tuple[Source, ...]:
    """Return all files of all rooms."""
    paths = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    assert paths
    return tuple(Source(path, _name(path), path.read_text(encoding="utf-8")) for path in paths)


def within(name: str, package: str) -> bool:
    """Say whether a dotted name is a package or lies in it."""
    return name == package or name.startswith(f"{package}.")


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
