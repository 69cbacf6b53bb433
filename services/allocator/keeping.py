"""`archive` and `prune`: what an operator runs beside the service, daily say, to keep its database small.

Owns the commands and what they print, one line per file or fact; the work is `database.archive`'s.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from services.allocator.database import migrate
from services.allocator.database.archive import Archive, prune
from services.allocator.settings import Settings
from services.kit.database import connect
from services.kit.session import Database

COMMANDS = frozenset({"archive", "prune"})
KEEP_DAYS = 90
"""How long an id's answer is kept at least, when no day is given: longer than any run waits to repeat a call."""


def parsers(commands: Any) -> list[argparse.ArgumentParser]:
    """Add the two commands."""
    default = f"default: {KEEP_DAYS} days ago"
    archiving = commands.add_parser(
        "archive",
        help="carry old entries of the ledger into files, without changing a sum; safe to repeat",
        description="Writes the entries of days that are over, and of which nothing is held, into one compressed file per "
        "team and day, reads each back, and deletes exactly these entries. Usage, budgets and audits stay as they are.",
    )
    archiving.add_argument("--to", type=Path, required=True, help="folder of the files; keep it, and its backups")
    archiving.add_argument(
        "--verify", action="store_true", help="read all files there and compare them with the database"
    )
    pruning = commands.add_parser(
        "prune",
        help="forget the ids of finished runs whose entries are all archived",
        description="Deletes reservations, groups and plans of finished runs that were granted nothing since the day. "
        "Their ids are answered run-finished or not-found from then on, and take no effect a second time.",
    )
    for command in (archiving, pruning):
        command.add_argument("--before", type=_day, help=f"first day that stays, as 2026-08-01 ({default})")
        command.add_argument("--team", help="only this team")
    return [archiving, pruning]


def run(command: str, settings: Settings, options: Mapping[str, Any]) -> int:
    """Run one of the commands; return the exit status: 1 where `--verify` found something wrong."""
    before: date = options["before"] or datetime.now(UTC).date() - timedelta(days=KEEP_DAYS)
    team: str | None = options["team"]

    async def work() -> int:
        database = Database(connect(settings.url))
        try:
            await _require_schema(database)
            if command == "prune":
                gone = await prune(database, before, team)
                _say(", ".join(f"{count} {name}" for name, count in gone.items()) + " forgotten")
                return 0
            archive = Archive(database, options["to"])
            if options["verify"]:
                return await _verify(archive, team)
            stored = 0
            async for part in archive.store(before, team):
                stored += 1
                _say(f"{part.day} {part.rows} entries of {part.team} in {part.file} sha256 {part.digest}")
            if not stored:
                _say(f"nothing to archive of the days before {before}")
        finally:
            await database.engine.dispose()
        return 0

    return asyncio.run(work())


async def _require_schema(database: Database) -> None:
    async with database.snapshot() as connection:
        if not await migrate.is_current(connection):
            raise ValueError(
                "the database is not at the newest schema; run `python -m services.allocator migrate` first"
            )


async def _verify(archive: Archive, team: str | None) -> int:
    wrong = await archive.verify(team)
    for line in wrong:
        _say(line)
    if not wrong:
        _say("every file is there, unchanged, and adds up to what the database keeps of it")
    return 1 if wrong else 0


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; write it as 2026-08-01") from None


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
