"""A whole allocator in this process: its application over an ASGI transport, its keys, its tables."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import and_, func, select

from rollout_budget.engine.ports import PriorSource
from rollout_budget.wire import KeyCreate, TeamCreate, TeamLimits
from services.allocator.app import create_app
from services.allocator.database.tables import (
    ALL_PROMPTS,
    ALL_VERSIONS,
    balances,
    checkpoints,
    histories,
    metadata,
    outbox,
)
from services.allocator.service import Service
from services.allocator.settings import Settings

BACKGROUND = frozenset({balances.name, checkpoints.name, histories.name})
"""Tables that requests do not write."""
NEVER_S = 3600.0
"""Pause of background work that a test does by hand."""


@dataclass(frozen=True, slots=True)
class Running:
    """A running allocator and its two embedded keys."""

    app: FastAPI
    service: Service
    folder: Path
    http: httpx.AsyncClient

    @property
    def team(self) -> dict[str, str]:
        """Headers of the embedded mode's team."""
        return self.bearer((self.folder / "team.key").read_text().strip())

    @property
    def admin(self) -> dict[str, str]:
        """Headers of the admin."""
        return self.bearer((self.folder / "admin.key").read_text().strip())

    @staticmethod
    def bearer(token: str) -> dict[str, str]:
        """Headers of a token."""
        return {"Authorization": f"Bearer {token}"}

    async def new_key(
        self, team: str, scope: str = "team", limits: TeamLimits | None = None, **more: Any
    ) -> dict[str, str]:
        """Make a team, if new, and a key of it; return its headers."""
        request = KeyCreate.model_validate({"team": team, "scope": scope, **more})
        async with self.service.directory() as directory:
            await directory.add_team(TeamCreate(team=team, limits=limits or TeamLimits()))
            return self.bearer((await directory.create_key(request, f"{team} {scope} {more}")).token)

    async def waiting(self) -> int:
        """Count the rows of evidence that wait to be carried away."""
        async with self.service.database.transaction() as connection:
            return int(await connection.scalar(select(func.count()).select_from(outbox)) or 0)

    async def rows(self) -> dict[str, int]:
        """Count the rows of every table, but for what background work moves from one to another by itself."""
        everywhere = and_(histories.c.prompt_key == ALL_PROMPTS, histories.c.version == ALL_VERSIONS)
        async with self.service.database.transaction() as connection:
            counted = {
                table.name: int(await connection.scalar(select(func.count()).select_from(table)) or 0)
                for table in metadata.sorted_tables
                if table.name not in BACKGROUND
            }
            delivered = await connection.scalar(select(func.sum(histories.c.rows)).where(everywhere))
        counted["evidence"] = counted.pop(outbox.name) + int(delivered or 0)
        return counted


@asynccontextmanager
async def running(folder: Path, url: str, priors: PriorSource | None = None, **more: Any) -> AsyncIterator[Running]:
    """Run an allocator on the database of this URL."""
    settings = Settings(
        data=folder,
        database_url=SecretStr(url),
        deliver_every_s=more.pop("deliver_every_s", NEVER_S),
        audit_every_s=NEVER_S,
        **more,
    )
    app = create_app(settings, priors=priors)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(base_url="http://allocator", transport=transport) as http:
            yield Running(app, app.state.service, folder, http)
