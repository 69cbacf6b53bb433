"""The allocator's fixtures, for its page too."""

from __future__ import annotations

from tests.allocator.conftest import allocator, any_database

__all__ = ["allocator", "any_database"]
