"""Writes tables into a Markdown document, each between its own pair of markers, so that figures are never copied by hand.

A section `name` is what stands between `<!-- begin name -->` and `<!-- end name -->`; the rest of the document is prose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


class NoSection(Exception):
    """A document has no such section."""


def write(path: Path, sections: Mapping[str, str]) -> None:
    """Replace sections of a document.

    Raises:
        NoSection: a pair of markers is missing; nothing was written.
    """
    text = path.read_text(encoding="utf-8")
    for name, body in sections.items():
        pattern = re.compile(f"(<!-- begin {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
        if not pattern.search(text):
            raise NoSection(f"{path} has no section {name!r}: <!-- begin {name} --> and <!-- end {name} -->")
        text = pattern.sub(lambda found, body=body: f"{found[1]}\n{body}\n\n{found[2]}", text, count=1)  # type: ignore[misc]  # a default binds the loop's value
    path.write_text(text, encoding="utf-8")
