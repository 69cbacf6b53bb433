"""What the chart renders is what Kubernetes takes, and what it does not take it refuses in words."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import chart
from tests.helm.charts import (
    ALONE,
    CASES,
    CHART,
    DEFAULT,
    EVERYTHING,
    NEWEST,
    OLDEST,
    OPERATOR,
    RELEASE,
    SCALED,
    faults,
    helm,
    one,
    pods,
    refusal,
    render,
    template,
)
from tests.paths import ROOT


@pytest.mark.parametrize("case", CASES)
def test_the_chart_passes_helms_own_lint(case: str) -> None:
    """Strictly: a warning fails."""
    done = helm("lint", "--strict", str(CHART), *(part for value in CASES[case] for part in ("--set", value)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 chart(s) linted, 0 chart(s) failed" in done.stdout


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("case", CASES)
def test_every_object_fits_kubernetes_own_schema(case: str, version: str) -> None:
    """Strictly: a field that Kubernetes does not know is a fault too. Only the operator's kinds have no schema."""
    objects = render(*CASES[case])
    assert {thing["kind"] for thing in objects if thing["apiVersion"] == OPERATOR} <= {
        "ServiceMonitor",
        "PrometheusRule",
    }
    found = {
        f"{thing['kind']} {thing['metadata']['name']}": wrong
        for thing in objects
        if thing["apiVersion"] != OPERATOR and (wrong := faults(thing, version))
    }
    assert found == {}
    names = [(thing["kind"], thing["metadata"]["name"]) for thing in objects]
    assert len(set(names)) == len(names)


def test_the_schemas_find_faults() -> None:
    """A misspelt probe and a word for a number: otherwise the test above would say nothing."""
    deployment = one(render(*DEFAULT), "Deployment", "-allocator")
    deployment["spec"]["replicas"] = "two"
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    assert [fault.partition(":")[0] for fault in faults(deployment, NEWEST)] == [
        "spec.replicas",
        "spec.template.spec.containers.0",
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("allocator.setings.requests_per_s=5", "at '/allocator': additional properties 'setings' not allowed"),
        ("allocator.settings.request_per_s=5", "at '/allocator/settings': additional properties 'request_per_s'"),
        ("allocator.settings.pepper=secret", "at '/allocator/settings': additional properties 'pepper' not allowed"),
        ("prior.settings.service_keys[0]=secret", "at '/prior/settings': additional properties 'service_keys'"),
        ("prior.settings.device=tpu", "at '/prior/settings/device': value must be one of 'auto', 'cpu', 'cuda'"),
        ("allocator.settings.requests_per_s=0", "at '/allocator/settings/requests_per_s': exclusiveMinimum"),
        ("allocator.replicas=0", "at '/allocator/replicas': minimum: got 0, want 1"),
        ("allocator.ingress.enabled=true", "at '/allocator/ingress/host': minLength"),
        ("prior.service.type=Everywhere", "at '/prior/service/type': value must be one of"),
        ("database.existingSecret=", "database.existingSecret is empty: make a Secret with the URLs"),
    ],
)
def test_wrong_values_are_refused_with_their_place(value: str, words: str) -> None:
    """Before anything reaches the cluster; a secret has no place among the values at all."""
    assert words in refusal(*DEFAULT, value)


def test_an_upgrade_never_makes_a_new_pepper() -> None:
    """Where the Secret is not found, the upgrade stops and says what to do; with one of the operator's own it goes on."""
    upgrade = ("template", RELEASE, str(CHART), "--is-upgrade", "--set", DEFAULT[0])
    refused = helm(*upgrade)
    assert refused.returncode != 0
    assert "a new pepper would end every key: restore it" in refused.stderr
    assert helm(*upgrade, "--set", "secrets.existingSecret=ours").returncode == 0


def test_secrets_are_made_anew_at_each_install_and_only_there() -> None:
    """No default secret: two installs differ; the hook is of the install alone, so that no upgrade rewrites it."""
    first, second = (
        one(list(yaml.safe_load_all(helm("template", RELEASE, str(CHART), "--set", DEFAULT[0]).stdout)), "Secret")
        for _ in range(2)
    )
    assert first["metadata"]["annotations"]["helm.sh/hook"] == "pre-install"
    assert first["stringData"].keys() == {"pepper", "admin-key", "prior-key"}
    assert all(len(value) >= 64 for value in first["stringData"].values())
    assert not set(first["stringData"].values()) & set(second["stringData"].values())
    assert not [thing for thing in render(*EVERYTHING) if thing["kind"] == "Secret"]


def test_schema_and_table_follow_the_code() -> None:
    """A setting that a service gains or loses is one for the chart too: `python scripts/chart.py` writes both files."""
    assert chart.main(["--check"]) == 0, "run python scripts/chart.py"


def test_every_value_has_a_default_and_a_description() -> None:
    """What the schema knows stands in values.yaml and in the README's table; the schema refuses what it does not know."""
    known = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    optional = {"global", "podSelector", "ipBlock"}

    def walk(part: dict[str, Any], given: dict[str, Any], path: str) -> Iterator[str]:
        assert part["additionalProperties"] is False, path
        for name, inner in part["properties"].items():
            place = f"{path}{name}"
            assert inner["description"].endswith((".", "0 s")) or "postgresql://" in inner["description"], place
            assert name in given or name in optional, place
            if "properties" in inner and name != "settings":
                yield from walk(inner, given.get(name, {}), f"{place}.")
            elif name in given:
                yield place

    table = re.findall(r"^\| `([^`]+)` \|", (CHART / "README.md").read_text(), re.MULTILINE)
    assert list(walk(known, values, "")) == table


def test_the_charts_version_is_the_packages() -> None:
    """The tag that is pulled by default is the one that the release is built with."""
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert described["appVersion"] == package
    assert one(render(*DEFAULT), "Deployment", "-allocator")["spec"]["template"]["spec"]["containers"][0]["image"] == (
        f"rollout-budget-allocator:{package}"
    )


def test_replicas_budgets_and_spread() -> None:
    """One replica has no disruption budget: its node could never be drained. Scaled by load, the chart sets no number."""
    scaled, alone, everything = render(*SCALED), render(*ALONE), render(*EVERYTHING)
    budgets = [thing["metadata"]["labels"] for thing in scaled if thing["kind"] == "PodDisruptionBudget"]
    assert [labels["app.kubernetes.io/component"] for labels in budgets] == ["allocator", "prior"]
    assert not [thing for thing in alone if thing["kind"] in {"PodDisruptionBudget", "Job"}]
    assert not [thing for thing in alone if thing["metadata"]["name"].endswith("prior")]
    assert one(scaled, "Deployment", "-allocator")["spec"]["replicas"] == 5
    assert "replicas" not in one(everything, "Deployment", "-allocator")["spec"]
    scaler = one(everything, "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == one(everything, "Deployment", "-allocator")["metadata"]["name"]
    for component, metadata, spec in pods(scaled):
        for constraint in spec.get("topologySpreadConstraints", ()):
            assert constraint["labelSelector"]["matchLabels"].items() <= metadata["labels"].items()
        assert ("topologySpreadConstraints" in spec) is (component in {"allocator", "prior"})


def test_selectors_are_those_of_the_pods_and_of_no_others() -> None:
    """Services, disruption budgets and deployments each select one component's pods."""
    objects = render(*SCALED)
    labels = {component: metadata["labels"] for component, metadata, _ in pods(objects)}
    for thing in objects:
        if thing["kind"] in {"Service", "PodDisruptionBudget", "Deployment"}:
            selector = thing["spec"]["selector"]
            wanted = selector.get("matchLabels", selector).items()
            chosen = {component for component, has in labels.items() if wanted <= has.items()}
            assert chosen == {thing["metadata"]["labels"]["app.kubernetes.io/component"]}


def test_monitoring_is_that_of_the_compose_stack(tmp_path: Path) -> None:
    """Alerts and dashboards as they are in deploy/, byte for byte in meaning; `job` is what their queries expect."""
    objects = render(*EVERYTHING)
    monitor = one(objects, "ServiceMonitor")
    services = [thing for thing in objects if thing["kind"] == "Service"]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    jobs = {
        thing["metadata"]["labels"][monitor["spec"]["jobLabel"]]
        for thing in services
        if wanted <= thing["metadata"]["labels"].items()
    }
    assert jobs == {"allocator", "prior"}
    assert monitor["spec"]["endpoints"] == [{"port": "http", "path": "/metrics", "interval": "15s"}]
    assert {port["name"] for thing in services for port in thing["spec"]["ports"]} == {"http"}
    rules = {thing["metadata"]["name"]: thing["spec"] for thing in objects if thing["kind"] == "PrometheusRule"}
    files = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
    assert files
    assert list(rules.values()) == [yaml.safe_load(file.read_text()) for file in files]
    boards = {name: text for thing in objects if thing["kind"] == "ConfigMap" for name, text in thing["data"].items()}
    dashboards = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
    assert dashboards
    assert {name: text.strip() for name, text in boards.items()} == {
        file.name: file.read_text().strip() for file in dashboards
    }
    assert helm("package", str(CHART), "-d", str(tmp_path)).returncode == 0
    shutil.unpack_archive(next(tmp_path.glob("*.tgz")), tmp_path)
    packed = template(*EVERYTHING, chart=tmp_path / "rollout-budget")
    assert packed == template(*EVERYTHING), "a packaged chart carries what the links point to"


def test_the_ingress_leads_to_the_allocators_interface_alone() -> None:
    """Metrics need no key, so they are not let in from outside."""
    ingress = one(render(*EVERYTHING), "Ingress")["spec"]
    service = one(render(*EVERYTHING), "Service", "-allocator")["metadata"]["name"]
    (rule,) = ingress["rules"]
    assert rule["host"] == "budget.example"
    backend = {"service": {"name": service, "port": {"name": "http"}}}
    assert rule["http"]["paths"] == [{"path": "/v1", "pathType": "Prefix", "backend": backend}]
    assert ingress["tls"] == [{"hosts": ["budget.example"], "secretName": "tls"}]
