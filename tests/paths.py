"""Where tests find things outside the package."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = next((path for path in (ROOT.parent / "shared", ROOT / "shared") if path.is_dir()), None)


def outcomes_folder() -> Path:
    """Return the folder of real outcomes, or skip the test where this checkout has none beside it."""
    if SHARED is None or not (SHARED / "data" / "v0").is_dir():
        pytest.skip("the folder of real outcomes (shared/data/v0) is not beside this checkout")
    return SHARED / "data" / "v0"
