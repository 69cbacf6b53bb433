"""Fenced blocks of a document, so that what it says can be run is run."""

from __future__ import annotations

import re
from pathlib import Path


def blocks(document: Path) -> list[tuple[str, str]]:
    """Return language and text of each block, in their order."""
    text = document.read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
