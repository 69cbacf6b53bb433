"""Tools that some tests need and that are not Python's: found on PATH or in .cache/tools, never installed by a test.

`make tools` fetches them (scripts/tools).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.paths import ROOT

FETCHED = ROOT / ".cache" / "tools"
"""One folder per tool, or the program itself."""


def find_tool(name: str) -> Path:
    """Return the path of a program, or skip the test with the reason."""
    folders = [FETCHED, *(path for path in FETCHED.glob("*") if path.is_dir()), *FETCHED.glob("*/bin")]
    places = (shutil.which(name, path=path) for path in [None, *map(str, folders)])
    found = next((place for place in places if place is not None), None)
    if found is None:
        pytest.skip(f"{name} is neither on PATH nor in .cache/tools: run `make tools`")
    return Path(found)
