"""Options for a team's limits, made from the fields of `TeamLimits`: a new limit has its option without a line here."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rollout_budget.cli.parsing import Options, Usage
from rollout_budget.wire import TeamLimits

_DESTINATION = "limit_{}"
_DIGITS = re.compile(r"[\d_]+")


def add_options(parser: argparse.ArgumentParser, about: str) -> None:
    """Add one option per limit, in a group of `--help` that says `about` all of them."""
    group = parser.add_argument_group("limits", about)
    for name, schema in TeamLimits.model_json_schema()["properties"].items():
        group.add_argument(
            _option(name),
            dest=_DESTINATION.format(name),
            metavar=_values(schema),
            help=schema.get("description", name.replace("_", " ")).replace("%", "%%"),
        )


def named(options: Options) -> dict[str, object]:
    """Return the limits that were named, with their values as JSON knows them."""
    given = {name: getattr(options, _DESTINATION.format(name)) for name in TeamLimits.model_fields}
    return {name: _value(text) for name, text in given.items() if text is not None}


def limits(values: Mapping[str, object]) -> TeamLimits:
    """Return these limits.

    Raises:
        Usage: a value is none that its limit may have.
    """
    try:
        return TeamLimits.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = _option(str(first["loc"][0])) if first["loc"] else "limits"
        raise Usage(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _value(text: str) -> object:
    if text == "none":
        return None
    try:
        return json.loads(text.replace("_", "") if _DIGITS.fullmatch(text) else text)
    except ValueError:
        return text


def _values(schema: Mapping[str, Any]) -> str:
    """Return what an option takes: its values where they are few, else `N`, `X` or `TEXT`."""
    one = next((kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"), schema)
    if "enum" in one:
        return "{" + ",".join(map(str, one["enum"])) + "}"
    return {"integer": "N", "number": "X"}.get(one.get("type", ""), "TEXT")
