"""What the pages of docs/integrations print, for tests that run it; loads nothing but the standard library."""

from __future__ import annotations

import re
from pathlib import Path

PAGES = Path(__file__).resolve().parents[2] / "docs" / "integrations"


def printed(page: str, language: str) -> list[str]:
    """Return the blocks of a language that a page prints."""
    text = (PAGES / page).read_text(encoding="utf-8")
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return blocks
