"""A fresh engine for each test."""

from __future__ import annotations

import pytest

from tests.engine.world import Desk


@pytest.fixture
def desk() -> Desk:
    """Return an engine in memory."""
    return Desk()
