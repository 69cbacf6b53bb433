"""The dashboards' files: in step with what makes them, of Grafana's own shape, and fit to be read."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from scripts.dashboards.__main__ import stale
from tests.dashboards.boards import FOLDER, NAMES, asks, board, filled, panels, variables
from tests.paths import ROOT

UNITS = {"short", "none", "percentunit", "s", "cps", "reqps", "bytes"}
"""Grafana's units that are in use: a word that it does not know would be shown as it is."""
GRID = 24
SECTIONS = {
    "budget": {"Now", "Teams", "Runs", "What became of grants", "Spend by policy"},
    "decisions": {"Since the runs began", "Groups", "Prior and price", "Reasons and fallbacks"},
    "prior": {"Quality by run", "Evidence", "Prior service"},
    "service": {"At a glance", "Rates and errors", "Latencies", "Ledger", "Saturation"},
}


def test_files_are_in_step_with_what_makes_them() -> None:
    assert stale() == []


@pytest.mark.parametrize("name", NAMES)
def test_grafanas_own_types_read_a_file_and_write_it_again(name: str) -> None:
    """A member that the schema does not know would be lost on the way, one of a wrong type would not be read."""
    register_default_plugins()
    read = Dashboard.from_json(board(name))
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == board(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_says_what_it_shows(name: str) -> None:
    """Title, description in a sentence, unit, a legend where there are several series, a data source to be chosen."""
    found = list(panels(name))
    assert {section for section, _ in found} == SECTIONS[name]
    titles = [(section, panel["title"]) for section, panel in found]
    assert len(set(titles)) == len(titles)
    for section, panel in found:
        place = f"{section}: {panel['title']}"
        assert len(panel["description"].split()) >= 4, place
        assert panel["description"].endswith("."), place
        assert "\n" not in panel["description"], place
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, place
        for target in (panel, *panel["targets"]):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, place
        if len(panel["targets"]) > 1 and panel["type"] == "timeseries":
            assert all(target["legendFormat"] for target in panel["targets"]), place


@pytest.mark.parametrize("name", NAMES)
def test_panels_fill_their_rows_and_none_lies_upon_another(name: str) -> None:
    boxes = [panel["gridPos"] for panel in board(name)["panels"]]
    for one, other in combinations(boxes, 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)
    for y in {box["y"] for box in boxes}:
        assert sum(box["w"] for box in boxes if box["y"] == y) == GRID, y
    ids = [panel["id"] for panel in board(name)["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", NAMES)
def test_variables_links_and_names(name: str) -> None:
    """Team, run and policy everywhere, links to the other dashboards that keep them and the time, uids that stay."""
    made = board(name)
    assert made["uid"] == f"rollout-budget-{name}"
    assert {"datasource", "team", "run", "policy", "window"} <= set(variables(name))
    (link,) = made["links"]
    assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == (
        "dashboards",
        made["tags"],
        True,
        True,
    )
    for ask in asks(name):  # no variable is used that is not there
        assert "$" not in filled(ask.expr, dict.fromkeys(variables(name), "x"))


def test_series_of_runs_lead_to_the_decisions_of_that_run() -> None:
    """The uid in the link is that dashboard's, and the variables that it sets are there."""
    found = {
        link["url"]
        for name in NAMES
        for _, panel in panels(name)
        for link in panel["fieldConfig"]["defaults"].get("links", [])
    }
    (url,) = found
    assert f"/d/{board('decisions')['uid']}?" in url
    for name in ("team", "run"):
        assert f"var-{name}=${{__field.labels.{name}}}" in url
        assert name in variables("decisions")


def test_provisioning_leads_to_these_files() -> None:
    """The folder that Grafana is told of is where the stack mounts them; the default data source is the provisioned one."""
    grafana = ROOT / "deploy" / "grafana" / "provisioning"
    provider: dict[str, Any] = yaml.safe_load((grafana / "dashboards" / "rollout-budget.yml").read_text("utf-8"))
    path = provider["providers"][0]["options"]["path"]
    compose = (ROOT / "docker-compose.yml").read_text("utf-8")
    assert f"./{FOLDER.relative_to(ROOT)}:{path}:" in compose
    source: dict[str, Any] = yaml.safe_load((grafana / "datasources" / "prometheus.yml").read_text("utf-8"))
    for name in NAMES:
        assert variables(name)["datasource"]["current"]["value"] == source["datasources"][0]["uid"]
