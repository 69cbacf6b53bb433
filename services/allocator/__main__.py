"""`python -m services.allocator serve | migrate | restored | archive | prune | openapi`: run it and keep its database."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import SettingsError

from rollout_budget.errors import RolloutBudgetError
from services.allocator import keeping
from services.allocator.app import create_app
from services.allocator.database import migrate, restores
from services.allocator.database.restores import MAX_LEASE_S
from services.allocator.settings import Settings
from services.kit import logs, serve
from services.kit.app import document
from services.kit.configuration import faults, listed
from services.kit.database import Unreachable, alone, connect, probe
from services.kit.keys import ensure_file
from services.kit.session import Database


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = vars(_parser().parse_args(arguments))
    command: str = options.pop("command")
    window_s: float = options.pop("window_s", MAX_LEASE_S)
    revision: str | None = options.pop("to_revision", None)
    chosen = {name: value for name, value in options.items() if value is not None and name in Settings.model_fields}
    if command == "openapi":
        sys.stdout.write(openapi())
        return 0
    try:
        settings = Settings(**chosen)
    except (ValidationError, SettingsError) as error:
        sys.stderr.write(f"services.allocator: {faults(error)}\n")
        return 2
    logs.configure()
    try:
        if command in keeping.COMMANDS:
            probe(settings.url)
            return keeping.run(command, settings, options)
        if command == "serve":
            _serve(settings)
        elif command == "migrate":
            _migrate(settings, revision)
        else:
            _restored(settings, window_s)
    except (ValueError, OSError, Unreachable, RolloutBudgetError) as error:
        sys.stderr.write(f"services.allocator: {error}\n")
        return 2
    return 0


def openapi() -> str:
    """Return the OpenAPI document, which no setting changes, as it is committed."""
    return document(create_app(Settings.model_construct()))


def _serve(settings: Settings) -> None:
    embedded = settings.mode == "embedded"
    key_files = _key_files(settings) if embedded else []
    for path in key_files:
        ensure_file(path)
    try:
        probe(settings.url)
    except Unreachable as error:
        if embedded:
            raise
        sys.stderr.write(f"services.allocator: {error}; not ready until there is one\n")
    app = create_app(settings)
    with alone(settings.url):
        serve.run(app, host=settings.host, port=settings.port, balanced=not embedded, key_files=key_files)


def _key_files(settings: Settings) -> list[Path]:
    given = {"team.key": None, "admin.key": settings.admin_key, "pepper": settings.pepper}
    return [settings.data / name for name, secret in given.items() if secret is None]


def _migrate(settings: Settings, revision: str | None) -> None:
    probe(settings.url)

    async def move() -> None:
        engine = connect(settings.url)
        try:
            await (migrate.upgrade(engine) if revision is None else migrate.to(engine, revision))
        finally:
            await engine.dispose()

    asyncio.run(move())


def _restored(settings: Settings, window_s: float) -> None:
    probe(settings.url)

    async def declare() -> None:
        database = Database(connect(settings.url))
        try:
            async with database.transaction() as connection:
                await restores.declare(connection, window_s)
        finally:
            await database.engine.dispose()

    asyncio.run(declare())
    sys.stdout.write(f"no new grants for {window_s:g} s; renew, commit and release go on\n")


def _window(text: str) -> float:
    seconds = float(text)
    if not 0.0 < seconds <= MAX_LEASE_S:
        raise argparse.ArgumentTypeError(f"a lease lasts up to {MAX_LEASE_S:g} s, not {text}")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.allocator",
        description="The allocator of rollout-budget. Settings come from the environment; options override them.",
        epilog=listed(Settings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("serve", help="run the service; embedded mode also brings its database up to date")
    migrating = commands.add_parser(
        "migrate",
        help="bring the database to the newest schema, or to another",
        description="Brings the database to the newest schema, or with --to to another. On PostgreSQL replicas may serve "
        "meanwhile: it tries for about a minute to have the tables to itself, and changes all or nothing.",
    )
    migrating.add_argument(
        "--to",
        dest="to_revision",
        metavar="SCHEMA",
        help="such as 0007; to an older one after the newer code has stopped: what only the newer schema holds is lost",
    )
    commands.add_parser("openapi", help="print the OpenAPI document")
    restored = commands.add_parser(
        "restored",
        help="after a restore from a backup, before the service is started: grant nothing new until the grants that "
        "the backup does not know have ended",
    )
    restored.add_argument(
        "--window-s",
        type=_window,
        default=MAX_LEASE_S,
        help="the longest lease that any trainer asks for (%(default)g unless given: the longest there is)",
    )
    for command in (running, migrating, restored, *keeping.parsers(commands)):
        command.add_argument("--mode", choices=("embedded", "production"))
        command.add_argument("--data", help="directory of the embedded mode: database and keys")
    running.add_argument("--host")
    running.add_argument("--port", type=int)
    running.add_argument("--prior-url", help="the prior service; its key is taken from the environment")
    return parser


if __name__ == "__main__":
    sys.exit(main())
