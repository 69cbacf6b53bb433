"""How commands are declared: parsers whose faults are one line, options in common, durations."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn

REFUSED_STATUS = 1
"""Exit code of a command that the service refused, or whose answer is not what was required or could not be written."""
USAGE_STATUS = 2
"""Exit code of a command that was not understood or lacks something, before anything was sent."""

MAX_PORT = 65_535
_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")

Options = argparse.Namespace
Handler = Callable[[Options], None]


class Usage(Exception):
    """The command lacks something or cannot be meant; the message says what to do."""


class Unkept(Exception):
    """It was done, but what it answered could not be written; the message says where that is, or how to have it again."""


class Failed(Exception):
    """It was begun and did not work out; the message says why and what to do."""


class Parser(argparse.ArgumentParser):
    """A parser whose faults are one line, and whose options are never guessed from their beginnings."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        fixed = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(*arguments, **{**options, **fixed})

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is; exit with 2."""
        self.exit(USAGE_STATUS, f"{self.prog}: {message}; see '{self.prog} --help'\n")


class Commands:
    """The commands below one parser."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)

    def group(self, name: str, about: str, examples: str) -> Commands:
        """Add a command that only has commands of its own."""
        return Commands(self._add(name, about, examples))

    def command(
        self,
        name: str,
        about: str,
        examples: str,
        run: Handler,
        *,
        key: str | None,
        output: str = "print the service's answer as JSON",
    ) -> argparse.ArgumentParser:
        """Add a command that does something.

        Args:
            name: the word that runs it.
            about: for `--help`; its first sentence is for the list of commands.
            examples: lines of a shell.
            run: what it does.
            key: the variable that its key is taken from; None for a command that asks no allocator.
            output: what `--json` prints.
        """
        parser = self._add(name, about, examples)
        parser.set_defaults(run=run, key_variable=key)
        reach = parser.add_argument_group("service, key and output" if key else "output")
        if key:
            reach.add_argument(
                "--url", help="where the allocator is (default: $ROLLOUT_BUDGET_URL or http://127.0.0.1:8100)"
            )
            reach.add_argument(
                "--key-file", metavar="FILE", help=f"file that holds the key (default: the key in ${key})"
            )
        reach.add_argument("--json", action="store_true", help=output)
        return parser

    def _add(self, name: str, about: str, examples: str) -> argparse.ArgumentParser:
        return self._parsers.add_parser(
            name, help=about.partition(".")[0], description=about, epilog=f"examples:\n{examples}"
        )


def positive(text: str) -> int:
    """Read a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def not_negative(text: str) -> int:
    """Read a whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def port(text: str) -> int:
    """Read a port, 0 included."""
    if not text.isdecimal() or int(text) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 0 to {MAX_PORT}")
    return int(text)


def seconds(text: str) -> float:
    """Read a duration: `90s`, `15m`, `12h`, `30d`; of bare numbers 0 alone, as 90 may be meant as days."""
    match = _DURATION.fullmatch(text)
    if match is None or (not match[2] and float(match[1])):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write it like 90s, 15m, 12h or 30d")
    return float(match[1]) * _UNITS[match[2] or "s"]


def interval(text: str) -> float:
    """Read a pause: a duration above 0; here a bare number can only be meant as seconds."""
    found = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else seconds(text)
    if found == 0:
        raise argparse.ArgumentTypeError("a pause is longer than 0; write it like 2s")
    return found
