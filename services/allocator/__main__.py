"""`python -m services.allocator serve | migrate | check | restored | archive | prune | openapi`: run it and keep its database."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog
from pydantic import ValidationError
from pydantic_settings import SettingsError

from rollout_budget.errors import RolloutBudgetError
from services.allocator import keeping
from services.allocator.app import create_app
from services.allocator.settings import Settings
from services.kit import logs, serve
from services.kit.app import document
from services.kit.configuration import faults, listed
from services.kit.database import Unreachable, alone, probe
from services.kit.keys import ensure_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = vars(_parser().parse_args(arguments))
    command: str = options.pop("command")
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
        if command != "serve":
            return keeping.run(command, settings, options)
        _serve(settings)
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
        structlog.get_logger(__name__).warning(f"{error}; not ready until there is one")
    app = create_app(settings)
    with alone(settings.url):
        serve.run(app, host=settings.host, port=settings.port, balanced=not embedded, key_files=key_files)


def _key_files(settings: Settings) -> list[Path]:
    given = {"team.key": None, "admin.key": settings.admin_key, "pepper": settings.pepper}
    return [settings.data / name for name, secret in given.items() if secret is None]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.allocator",
        description="The allocator of rollout-budget. Settings come from the environment; options override them.",
        epilog=listed(Settings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("serve", help="run the service; embedded mode also brings its database up to date")
    commands.add_parser("openapi", help="print the OpenAPI document")
    for command in (running, *keeping.parsers(commands)):
        command.add_argument("--mode", choices=("embedded", "production"))
        command.add_argument("--data", help="directory of the embedded mode: database and keys")
    running.add_argument("--host")
    running.add_argument("--port", type=int)
    running.add_argument("--prior-url", help="the prior service; its key is taken from the environment")
    return parser


if __name__ == "__main__":
    sys.exit(main())
