"""The dashboards as Grafana reads them: their panels and queries, with variables filled in as Grafana does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.paths import ROOT

FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
NAMES = ("budget", "decisions", "prior", "service")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, slots=True)
class Ask:
    """One query of a panel: `place` is the dashboard, the panel's section and title, and the query's letter."""

    place: tuple[str, str, str, str]
    expr: str


def board(name: str) -> dict[str, Any]:
    """Return a dashboard."""
    read: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return read


def panels(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the panels of a dashboard, each with the title of its section."""
    section = ""
    for panel in board(name)["panels"]:
        if panel["type"] == "row":
            section = panel["title"]
        else:
            yield section, panel


def asks(name: str) -> list[Ask]:
    """Return all queries of a dashboard."""
    return [
        Ask((name, section, panel["title"], target["refId"]), target["expr"])
        for section, panel in panels(name)
        for target in panel["targets"]
    ]


def variables(name: str) -> dict[str, dict[str, Any]]:
    """Return the variables of a dashboard by name."""
    return {one["name"]: one for one in board(name)["templating"]["list"]}


def filled(text: str, values: Mapping[str, str | list[str]]) -> str:
    """Fill variables in as Grafana does in a query of Prometheus: several values become (a|b), each escaped.

    Raises:
        KeyError: a variable is used that the dashboard does not have.
    """

    def value(match: re.Match[str]) -> str:
        found = values[match[1] or match[2]]
        if isinstance(found, str):
            return found
        escaped = [re.sub(r"([\\^$.*+?()\[\]{}|/])", r"\\\\\1", one) for one in found]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"

    return _VARIABLE.sub(value, text)
