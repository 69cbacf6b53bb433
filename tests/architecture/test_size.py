"""Files and functions stay small enough to be read at once."""

from __future__ import annotations

from tests.architecture.sources import sources

LINES_PER_FILE = 400
LINES_PER_FUNCTION = 70
"""TigerBeetle's own cap: what fits on a screen."""


def test_files_are_short() -> None:
    lengths = {source.name: len(source.text.splitlines()) for source in sources()}
    assert {name: length for name, length in lengths.items() if length > LINES_PER_FILE} == {}


def test_functions_are_short() -> None:
    """Migrations aside: each is a dated list of tables, written once and never changed."""
    lengths = {
        f"{source.name}.{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for source in sources()
        for function in source.functions()
        if ".migrations." not in source.name
    }
    assert {name: length for name, length in lengths.items() if length > LINES_PER_FUNCTION} == {}
