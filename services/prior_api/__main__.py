"""`python -m services.prior_api [serve] | openapi | evaluate`: run the service, print its contract, judge priors.

Settings come from the environment; `--help` lists them. `evaluate` has options of its own, which override them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import SettingsError

from services.kit.configuration import faults, listed
from services.prior_api.evaluate import command as evaluation
from services.prior_api.settings import Settings
from services.prior_api.weights import Unloadable

NO_HUB = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Unless the settings allow it, no library asks a hub."""
ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false"}
"""The tokenizer keeps to the encoder's thread."""
DATABASE_WAIT_S = 120.0
"""How long production waits for a database that is starting too, as in a stack or after a power cut; then it ends, with 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    return COMMANDS[options.command or "serve"](options)


def openapi() -> str:
    """Return the OpenAPI document as it is committed."""
    from services.kit.app import document  # noqa: PLC0415  --help answers without loading the service
    from services.prior_api.app import create_app  # noqa: PLC0415  the same

    with tempfile.TemporaryDirectory() as folder:
        return document(create_app(Settings(data=Path(folder), device="cpu")))


def _serve(_options: argparse.Namespace) -> int:
    os.environ.update(ONE_THREAD)
    from services.kit import database, logs, serve  # noqa: PLC0415  --help answers without loading the service
    from services.prior_api.app import create_app  # noqa: PLC0415  the same

    try:
        settings = Settings()
    except (ValidationError, SettingsError) as error:
        sys.stderr.write(f"services.prior_api: {faults(error)}\n")
        return 2
    if not settings.hub:
        os.environ.update(NO_HUB)
    logs.configure()
    embedded = settings.mode == "embedded"
    try:
        database.reach(settings.database, 0.0 if embedded else DATABASE_WAIT_S)
        app = create_app(settings)
    except (ValueError, OSError, database.Unreachable, Unloadable) as error:
        sys.stderr.write(f"services.prior_api: {error}\n")
        return 2
    key_files = [settings.key_file] if embedded else []
    try:
        with database.alone(settings.database):
            serve.run(app, host=settings.host, port=settings.port, balanced=not embedded, key_files=key_files)
    except OSError as error:
        sys.stderr.write(f"services.prior_api: {error}\n")
        return 2
    return 0


def _openapi(_options: argparse.Namespace) -> int:
    sys.stdout.write(openapi())
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    os.environ.update(ONE_THREAD)
    return evaluation.evaluate(options, offline=NO_HUB)


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "serve": _serve,
    "openapi": _openapi,
    "evaluate": _evaluate,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.prior_api",
        description="The prior service of rollout-budget. Settings come from the environment:",
        epilog=listed(Settings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="[serve | openapi | evaluate]")
    commands.add_parser("serve", help="run the service (default)")
    commands.add_parser("openapi", help="print the OpenAPI document")
    evaluation.options(commands.add_parser("evaluate", help="judge priors on a folder of your own outcomes"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
