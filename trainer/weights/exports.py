"""Directories of exported weights: complete or absent, never half of one.

An export is written beside its final place, marked with a file named STABLE as its last act, and renamed. Servers refuse
a directory without the mark (`vllm_extension.py`). Names are `v{version}` under one root, which this module owns.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import WeightUpdateFailed

STABLE = "STABLE"
"""The file that an export writes last; the same name as in `vllm_extension.py`, which cannot import this."""

KEEP_EXPORTS = 2
"""The current version, for servers that come back, and the one before, which a slow one may still be reading."""


@contextmanager
def export_directory(root: Path, version: int) -> Iterator[Path]:
    """Enter a new directory to write version `version` into; it appears as `root/v{version}` when the block ends.

    A version that was exported before (by a run that this one resumes) is replaced. If the block raises, nothing remains.
    """
    final = root / f"v{version}"
    draft = root / f".v{version}.draft"
    root.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        (draft / STABLE).touch()
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def require_stable(directory: Path) -> None:
    """Check that a directory is a complete export.

    Raises:
        WeightUpdateFailed: it is not.
    """
    if not (directory / STABLE).is_file() or not any(directory.glob("*.safetensors")):
        raise WeightUpdateFailed(f"{directory} is not a complete export (no {STABLE} mark or no safetensors)")


def prune(root: Path, *, keep: int, unused_below: int | None = None) -> None:
    """Remove all but the `keep` newest versions under `root`; drafts that a killed process left count like versions.

    With `unused_below`, versions from that one on stay too.
    """
    found = ((re.fullmatch(r"v(\d+)|\.v(\d+)\.draft", path.name), path) for path in root.iterdir())
    versions = sorted((int(match[1] or match[2]), path) for match, path in found if match is not None)
    for version, path in versions[: max(0, len(versions) - keep)]:
        if unused_below is None or version < unused_below:
            shutil.rmtree(path, ignore_errors=True)
