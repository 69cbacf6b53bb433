"""The alerts: promtool's own checks and unit tests, and that each leads to its page."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.paths import ROOT
from tests.tools import find_tool

DEPLOY = ROOT / "deploy" / "prometheus"
RULES = sorted((DEPLOY / "rules").glob("*.yml"))
UNIT_TESTS = sorted((DEPLOY / "tests").glob("*.yml"))
WANTED = {"NearEnd", "RunsOut", "InvariantViolation", "PriorDegraded", "FallbackInUse", "LedgerSlow", "ServiceDown",
          "EvidenceRefused"}  # fmt: skip


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run([find_tool("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts() -> list[dict[str, Any]]:
    """Return all alerting rules."""
    files = [yaml.safe_load(file.read_text("utf-8")) for file in RULES]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def test_promtool_accepts_configuration_and_rules() -> None:
    """The configuration names the rules, so they are counted with it."""
    assert f"{len(RULES)} rule files found" in promtool("check", "config", DEPLOY / "prometheus.yml")
    assert f"{len(alerts())} rules found" in promtool("check", "rules", *RULES)


def test_unit_tests_of_the_rules_pass() -> None:
    assert "SUCCESS" in promtool("test", "rules", *UNIT_TESTS)


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    """In promtool's tests: an alert without such a pair would be untested."""
    tests = [one for file in UNIT_TESTS for one in yaml.safe_load(file.read_text("utf-8"))["tests"]]
    asked = [(one["alertname"], bool(one["exp_alerts"])) for each in tests for one in each.get("alert_rule_test", [])]
    counted = " ".join(one["expr"] for each in tests for one in each.get("promql_expr_test", []))
    asked += [(name, True) for name in re.findall(r'alertname="(\w+)"', counted)]
    for rule in alerts():
        assert {(rule["alert"], True), (rule["alert"], False)} <= set(asked), rule["alert"]


def test_every_alert_says_what_it_is_and_leads_to_its_page() -> None:
    """Severity, summary, description, and a runbook whose heading is there."""
    names = [rule["alert"].removeprefix("RolloutBudget") for rule in alerts()]
    assert set(names) >= WANTED
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
        notes = rule["annotations"]
        assert set(notes) == {"summary", "description", "runbook_url"}, rule["alert"]
        file, _, anchor = notes["runbook_url"].partition("#")
        headings = re.findall(r"(?m)^## (\w+)$", (ROOT / file).read_text("utf-8"))
        assert anchor in {heading.lower() for heading in headings}, rule["alert"]


def test_every_page_is_of_an_alert_and_says_what_to_do() -> None:
    """No page is left over, and each has its three parts."""
    text = (ROOT / "docs" / "runbooks.md").read_text("utf-8")
    pages = dict(re.findall(r"(?ms)^## (RolloutBudget\w+)$(.*?)(?=^## |\Z)", text))
    assert set(pages) == {rule["alert"] for rule in alerts()}
    for name, page in pages.items():
        for part in ("**Means.**", "**Look at.**", "**Do.**"):
            assert part in page, (name, part)
