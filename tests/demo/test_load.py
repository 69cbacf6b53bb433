"""The load of the demo: what its trainers drew is what the ledger books."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from rollout_budget.client import AdminClient
from rollout_budget.demo.cast import LINES, TEAMS
from rollout_budget.demo.load import Plan, run
from rollout_budget.wire import UsageQuery
from services.allocator.app import create_app
from services.allocator.settings import Settings
from tests.allocator.databases import fresh_sqlite
from tests.served import served


async def test_the_ledger_books_what_its_trainers_drew(tmp_path: Path) -> None:
    """Five runs of three teams, twelve steps each, by a real allocator; a second start makes runs of its own."""
    settings = Settings(data=tmp_path, database_url=SecretStr(fresh_sqlite(tmp_path)))
    with served(create_app(settings)) as url:
        key = (tmp_path / "admin.key").read_text().strip()
        said: list[str] = []
        drawn = (await run(Plan(url, key, steps=12, pace=1000.0, stamp="a"), said.append)).rollouts
        again = (await run(Plan(url, key, steps=1, pace=1000.0, stamp="b"), said.append)).rollouts
        async with AdminClient(url, key) as admin:
            rows = (await admin.show_usage(by=("team", "run"), query=UsageQuery())).rows
    booked = {row.run: row.used for row in rows if row.team in TEAMS}
    assert booked == drawn | again
    assert len(drawn) == len(again) == len(LINES)
    assert min(booked.values()) > 0
    assert {row.team for row in rows if row.run in drawn} == set(TEAMS)
    assert any("five runs" in line for line in said)
