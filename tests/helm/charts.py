"""Renders the chart with a real Helm, and reads what it rendered; nothing here talks to a cluster.

Owns finding Kubernetes' schemas in `.cache/tools` (`make tools` fetches them, and Helm) and what a kubelet does with a pod's
environment and secrets. Tests are skipped, with the reason, where a tool is not there.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from tests.paths import ROOT
from tests.tools import FETCHED, find_tool

CHART = ROOT / "deploy/helm/rollout-budget"
SCHEMAS = FETCHED / "kubernetes-schemas"
NAMESPACE, RELEASE, DATABASE_SECRET = "budgets", "rb", "our-postgres"
OLDEST, NEWEST = "v1.30.0", "v1.37.0"
"""Versions of Kubernetes whose schemas hold the chart: the oldest that it is for, and the newest known."""
OPERATOR = "monitoring.coreos.com/v1"
"""Of the Prometheus operator, which has no schema among Kubernetes' own."""
Object = dict[str, Any]

DEFAULT = ("database.existingSecret=" + DATABASE_SECRET,)
GPU = (*DEFAULT, "prior.gpu.enabled=true", "prior.gpu.runtimeClassName=nvidia", "prior.hubCacheClaim=hub")
SCALED = (
    *DEFAULT,
    "allocator.replicas=5",
    "prior.replicas=3",
    "allocator.topologySpread.whenUnsatisfiable=DoNotSchedule",
)
ALONE = (
    *DEFAULT,
    "prior.enabled=false",
    "allocator.replicas=1",
    "networkPolicy.enabled=false",
    "migrate.enabled=false",
)
EVERYTHING = (
    *GPU,
    "allocator.autoscaling.enabled=true",
    "allocator.ingress.enabled=true",
    "allocator.ingress.host=budget.example",
    "allocator.ingress.className=nginx",
    "allocator.ingress.tls.secretName=tls",
    "allocator.settings.requests_per_s=500",
    "allocator.settings.max_body_bytes=67108864",
    "allocator.extraEnv[0].name=TZ",
    "allocator.extraEnv[0].value=UTC",
    "allocator.podLabels.team=rl",
    "prior.replicas=2",
    "prior.settings.context_rows=512",
    "prior.modelsClaim=weights",
    "image.registry=registry.example/rl",
    "image.pullSecrets[0].name=pull",
    "secrets.existingSecret=our-keys",
    "networkPolicy.database.to[0].ipBlock.cidr=10.1.2.3/32",
    "networkPolicy.extraEgress[0].ports[0].port=4318",
    "monitoring.serviceMonitor.enabled=true",
    "monitoring.prometheusRule.enabled=true",
    "monitoring.prometheusRule.labels.release=prometheus",
    "monitoring.dashboards.enabled=true",
)
CASES = {"default": DEFAULT, "gpu": GPU, "scaled": SCALED, "alone": ALONE, "everything": EVERYTHING}


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm where no cluster can be found."""
    environment = os.environ | {"KUBECONFIG": "/nonexistent"}
    return subprocess.run(
        [str(find_tool("helm")), *arguments], capture_output=True, text=True, check=False, env=environment
    )


@functools.cache
def template(*values: str, chart: Path = CHART) -> str:
    """Return the manifest with `values`, each as in `--set`."""
    chosen = [part for value in values for part in ("--set", value)]
    done = helm("template", RELEASE, str(chart), "--namespace", NAMESPACE, *chosen)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(*values: str) -> list[Object]:
    """Return the objects with `values`, copies each time: a test may change them."""
    return copy.deepcopy(_parsed(template(*values)))


@functools.cache
def _parsed(manifest: str) -> list[Object]:
    return [one for one in yaml.load_all(manifest, Loader=yaml.CSafeLoader) if one]


def refusal(*values: str) -> str:
    """Return what Helm says to values that it does not take."""
    done = helm("template", RELEASE, str(CHART), *(part for value in values for part in ("--set", value)))
    assert done.returncode != 0, values
    return done.stderr


def one(objects: list[Object], kind: str, suffix: str = "") -> Object:
    """Return the one object of a kind whose name ends so."""
    found = [thing for thing in objects if thing["kind"] == kind and thing["metadata"]["name"].endswith(suffix)]
    assert len(found) == 1, (kind, suffix, [thing["metadata"]["name"] for thing in found])
    return found[0]


def pods(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """Yield component, metadata and spec of every pod that these objects make."""
    for thing in objects:
        if thing["kind"] == "Pod":
            yield thing["metadata"]["labels"]["app.kubernetes.io/component"], thing["metadata"], thing["spec"]
        elif thing["kind"] in {"Deployment", "Job"}:
            inner = thing["spec"]["template"]
            yield inner["metadata"]["labels"]["app.kubernetes.io/component"], inner["metadata"], inner["spec"]


def pod(objects: list[Object], component: str) -> Object:
    """Return the specification of a component's pods."""
    (found,) = (spec for name, _, spec in pods(objects) if name == component)
    return found


def environment(spec: Object, secrets: Mapping[tuple[str, str], str], folder: Path) -> dict[str, str]:
    """Return the environment of a pod's container, as a kubelet gives it, once its secrets' files are in `folder`.

    Args:
        spec: of the pod.
        secrets: values by Secret and key; one that is not there is an error, as it is for a kubelet.
        folder: stands for the path at which the volume is mounted.
    """
    (part,) = spec["containers"]
    (mount,) = (one["mountPath"] for one in part["volumeMounts"] if one["name"] == "secrets")
    (volume,) = (one["projected"] for one in spec["volumes"] if one["name"] == "secrets")
    for source in volume["sources"]:
        for item in source["secret"]["items"]:
            (folder / item["path"]).write_text(secrets[source["secret"]["name"], item["key"]])
    return {one["name"]: one["value"].replace(mount, str(folder)) for one in part["env"]}


def faults(thing: Object, version: str) -> list[str]:
    """Return what Kubernetes' own schema of that version says against an object; skip where there are no schemas."""
    if not (SCHEMAS / "complete").exists():
        pytest.skip("Kubernetes' schemas are not in .cache/tools: run `make tools`")
    validator = _validator(thing["kind"], thing["apiVersion"], version)
    return [f"{'.'.join(map(str, error.instance_path))}: {error.message}" for error in validator.iter_errors(thing)]


@functools.cache
def _validator(kind: str, api: str, version: str) -> jsonschema_rs.Draft202012Validator:
    group, _, number = api.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.split(".")[0], number) if part)
    return jsonschema_rs.Draft202012Validator(_schema(version, name), registry=_definitions(version))


@functools.cache
def _definitions(version: str) -> jsonschema_rs.Registry:
    return jsonschema_rs.Registry([("https://kubernetes.io/api/_definitions.json", _schema(version, "_definitions"))])


def _schema(version: str, name: str) -> Any:
    return json.loads((SCHEMAS / f"{version}-local-strict" / f"{name}.json").read_text())
