"""Two applications on one database that share nothing else but the settings: what one does, the other must know."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.allocator.running import Running, running


@asynccontextmanager
async def two(folder: Path, url: str) -> AsyncIterator[tuple[Running, Running]]:
    """Run both, with the same pepper and admin key."""
    async with running(folder, url) as one, running(folder, url) as other:
        yield one, other
