"""`migrate`, `check`, `restored`, `archive`, `prune`: what an operator runs to keep the allocator's database.

Owns the commands, what they require, and what they print, one line per file or fact; the work is `database`'s. On
PostgreSQL they run beside the service. A SQLite file is for one process: they refuse one that a service serves from, but
for what only reads. None but `migrate` makes a database.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import inspect, text
from sqlalchemy.exc import SQLAlchemyError

from rollout_budget.errors import RolloutBudgetError
from services.allocator.database import migrate, restores
from services.allocator.database.archive import Archive, prune
from services.allocator.database.restores import MAX_LEASE_S
from services.allocator.settings import Settings
from services.kit.database import alone, connect, reach, require_file
from services.kit.session import Database

KEEP_DAYS = 90
"""How long an id's answer is kept at least, when no day is given: longer than any run waits to repeat a call."""
STOP = "stop it, run this, and start it again"
MIGRATE = "the database is not at this release's schema; run `python -m services.allocator migrate` first"
Options = Mapping[str, Any]


def parsers(commands: Any) -> list[argparse.ArgumentParser]:
    """Add the commands."""
    checking = commands.add_parser(
        "check", help="say as JSON at which schema the database is, and whether it takes writes; changes nothing"
    )
    return [_add_migrate(commands), checking, _add_restored(commands), *_add_archive_and_prune(commands)]


def run(command: str, settings: Settings, options: Options) -> int:
    """Run one of the commands; return the exit status: 1 where `--verify` found something wrong.

    Raises:
        ValueError, OSError: there is no such database, or a service has it.
    """
    if command != "migrate":
        require_file(settings.url)
    reach(settings.url, options.get("wait_s") or 0.0)
    only_reads = command == "check" or (command == "archive" and options["verify"])
    with nullcontext() if only_reads else alone(settings.url, STOP):
        return asyncio.run(_with_database(settings.url, COMMANDS[command], options))


async def _with_database(url: str, work: Callable[[Database, Options], Awaitable[int]], options: Options) -> int:
    database = Database(connect(url))
    try:
        return await work(database, options)
    finally:
        await database.engine.dispose()


async def _migrate(database: Database, options: Options) -> int:
    if options["revision"] is None:
        await migrate.upgrade(database.engine)
    else:
        await migrate.to(database.engine, options["revision"])
    return 0


async def _check(database: Database, _options: Options) -> int:
    """Print what `rollout-budget doctor` wants to know; 1 where the service could not work with it."""
    async with database.snapshot() as connection:
        current, schema = await migrate.is_current(connection), await migrate.found(connection)
    refused = ""
    try:
        async with database.transaction() as connection:  # SQLite takes its write lock to begin
            if database.engine.dialect.name == "postgresql":
                read_only = await connection.scalar(text("SHOW transaction_read_only"))
                refused = "it only reads, as a standby does" if read_only == "on" else ""
    except (SQLAlchemyError, RolloutBudgetError) as error:
        refused = " ".join(str(getattr(error, "orig", None) or error).split())
    place = database.engine.url.set(drivername=database.engine.dialect.name, query={}).render_as_string()
    answer = {"database": place, "schema": schema, "newest": migrate.newest(), "current": current, "refused": refused}
    _say(json.dumps(answer))
    return 0 if current and not refused else 1


async def _restored(database: Database, options: Options) -> int:
    window_s: float = options["window_s"]
    async with database.transaction() as connection:
        if not await connection.run_sync(lambda sync: inspect(sync).has_table("restores")):
            raise ValueError(MIGRATE)
        await restores.declare(connection, window_s)
    _say(f"no new grants for {window_s:g} s; renew, commit and release go on")
    return 0


async def _archive(database: Database, options: Options) -> int:
    await _require_schema(database)
    archive, team = Archive(database, options["to"]), options["team"]
    if options["verify"]:
        return await _verify(archive, team)
    before, stored = _before(options), 0
    async for part in archive.store(before, team):
        stored += 1
        _say(f"{part.day} {part.rows} entries of {part.team} in {part.file} sha256 {part.digest}")
    if not stored:
        _say(f"nothing to archive of the days before {before}")
    return 0


async def _prune(database: Database, options: Options) -> int:
    await _require_schema(database)
    gone = await prune(database, _before(options), options["team"])
    _say(", ".join(f"{count} {name}" for name, count in gone.items()) + " forgotten")
    return 0


COMMANDS: Mapping[str, Callable[[Database, Options], Awaitable[int]]] = {
    "migrate": _migrate,
    "check": _check,
    "restored": _restored,
    "archive": _archive,
    "prune": _prune,
}


def _before(options: Options) -> date:
    return options["before"] or datetime.now(UTC).date() - timedelta(days=KEEP_DAYS)


async def _require_schema(database: Database) -> None:
    async with database.snapshot() as connection:
        if not await migrate.is_current(connection):
            raise ValueError(MIGRATE)


async def _verify(archive: Archive, team: str | None) -> int:
    wrong = await archive.verify(team)
    for line in wrong:
        _say(line)
    if not wrong:
        _say("every file is there, unchanged, and adds up to what the database keeps of it")
    return 1 if wrong else 0


def _add_migrate(commands: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        "migrate",
        help="bring the database to the newest schema, or to another",
        description="Brings the database to the newest schema, or with --to to another. On PostgreSQL replicas may serve "
        "meanwhile: it tries for about a minute to have the tables to itself, and changes all or nothing.",
    )
    command.add_argument(
        "--to",
        dest="revision",
        metavar="SCHEMA",
        help="such as 0007; to an older one after the newer code has stopped: what only the newer schema holds is lost",
    )
    command.add_argument(
        "--wait-s",
        type=float,
        default=0.0,
        metavar="S",
        help="how long to wait for a database that does not answer yet (default: not at all)",
    )
    return command


def _add_restored(commands: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        "restored",
        help="after a restore from a backup, before the service is started: grant nothing new until the grants that "
        "the backup does not know have ended",
    )
    command.add_argument(
        "--window-s",
        type=_window,
        default=MAX_LEASE_S,
        help="the longest lease that any trainer asks for (%(default)g unless given: the longest there is)",
    )
    return command


def _add_archive_and_prune(commands: Any) -> list[argparse.ArgumentParser]:
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


def _window(text: str) -> float:
    seconds = float(text)
    if not 0.0 < seconds <= MAX_LEASE_S:
        raise argparse.ArgumentTypeError(f"a lease lasts up to {MAX_LEASE_S:g} s, not {text}")
    return seconds


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; write it as 2026-08-01") from None


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
