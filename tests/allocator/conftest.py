"""One running allocator per test, on SQLite; `any_database` runs a test on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.allocator.databases import fresh_postgres, fresh_sqlite
from tests.allocator.running import Running, running


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, migrated."""
    return fresh_sqlite(tmp_path) if request.param == "sqlite" else fresh_postgres()


@pytest.fixture
async def allocator(tmp_path: Path) -> AsyncIterator[Running]:
    """A running allocator on SQLite."""
    async with running(tmp_path, fresh_sqlite(tmp_path)) as made:
        yield made
