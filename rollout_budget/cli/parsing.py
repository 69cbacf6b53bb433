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

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")

Options = argparse.Namespace
Handler = Callable[[Options], None]


class Usage(Exception):
    """The command lacks something or cannot be meant; the message says what to do."""


class Unkept(Exception):
    """It was done, but what it answered could not be written; the message says where that is, or how to have it again."""


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

    def command(self, name: str, about: str, examples: str, run: Handler, *, key: str) -> argparse.ArgumentParser:
        """Add a command that does something; `key` names the variable that its key is taken from."""
        parser = self._add(name, about, examples)
        parser.set_defaults(run=run, key_variable=key)
        reach = parser.add_argument_group("service, key and output")
        reach.add_argument(
            "--url", help="where the allocator is (default: $ROLLOUT_BUDGET_URL or http://127.0.0.1:8100)"
        )
        reach.add_argument("--key-file", metavar="FILE", help=f"file that holds the key (default: the key in ${key})")
        reach.add_argument("--json", action="store_true", help="print the service's answer as JSON")
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


def seconds(text: str) -> float:
    """Read a duration: `90s`, `15m`, `12h`, `30d`; of bare numbers 0 alone, as 90 may be meant as days."""
    match = _DURATION.fullmatch(text)
    if match is None or (not match[2] and float(match[1])):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write it like 90s, 15m, 12h or 30d")
    return float(match[1]) * _UNITS[match[2] or "s"]
