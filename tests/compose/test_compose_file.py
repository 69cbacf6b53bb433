"""The compose file by itself: what must hold of every service, whichever engine runs it. Its use is tests/compose/smoke."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.allocator.settings import Settings as AllocatorSettings
from services.prior_api.settings import Settings as PriorSettings
from tests.compose.smoke.stack import version
from tests.paths import ROOT

FILE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
DOCS = (ROOT / "docs" / "compose.md").read_text()
ONE_SHOTS = {"init", "migrate", "trainer-key"}
LOADS = {"demo", "trainer", "trainer-gpu"}
"""Clients, which answer nobody: there is nothing to ask for their health."""
DOCKERFILES = sorted((ROOT / "deploy").glob("*.Dockerfile"))
SCHEMA_CHECK = ROOT / ".cache" / "tools" / "compose" / "bin" / "check-jsonschema"

every_service = pytest.mark.parametrize("name", sorted(SERVICES))
every_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


def default(text: str) -> str:
    """Return what a `${NAME:-default}` is without settings."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_the_current_specification_allows_it() -> None:
    """The Compose specification's own schema, as check-jsonschema carries it."""
    if not SCHEMA_CHECK.exists():
        pytest.skip("the schema is fetched by `make tools` (scripts/tools/compose)")
    command = [str(SCHEMA_CHECK), "--builtin-schema", "vendor.compose-spec", str(ROOT / "docker-compose.yml")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@every_service
def test_a_service_is_confined(name: str) -> None:
    """A user that is not root, no capabilities, a file system that is only read, bounds of memory, processors, processes."""
    service = SERVICES[name]
    assert service["user"].split(":")[0] not in {"0", "root"}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}


@every_service
def test_a_service_restarts_as_its_kind_does(name: str) -> None:
    """What lasts comes back after failures and reboots and says how it is; what ends is tried again only if it failed."""
    service = SERVICES[name]
    ends = name in ONE_SHOTS or name in {"trainer", "trainer-gpu"}
    assert service["restart"].startswith("on-failure") if ends else service["restart"] == "unless-stopped"
    if name in ONE_SHOTS | LOADS:
        assert service["healthcheck"] == {"disable": True}
    else:
        command = service["healthcheck"]["test"]
        assert command[0] == "CMD"
        assert "curl" not in " ".join(command)
        assert set(service["healthcheck"]) >= {"interval", "timeout", "retries", "start_period"}


@every_service
def test_an_image_is_pinned(name: str) -> None:
    """A version as tag, never `latest`; our own images carry the project's version."""
    image, tag = default(SERVICES[name]["image"]).rsplit(":", 1)
    assert re.match(r"v?\d+(\.\d+)*(-\w+)?$", tag)
    if image.startswith("rollout-budget-"):
        assert tag == version()
    else:
        assert image.startswith("docker.io/")


@every_service
def test_ports_are_on_loopback(name: str) -> None:
    """What is published is published on this machine alone, and the documentation names the port."""
    for port in SERVICES[name].get("ports", []):
        host, outside, _inside = default(port).split(":")
        assert host == "127.0.0.1"
        assert f"127.0.0.1:{outside}" in DOCS


@every_service
def test_what_is_mounted_is_there(name: str) -> None:
    """A file or folder of the clone exists and is only read; a volume is declared; secrets are written by `init` alone."""
    for mount in SERVICES[name].get("volumes", []):
        source, target, *options = mount.split(":")
        if source.startswith("."):
            assert (ROOT / source).exists()
            assert options == ["ro,z"]
        else:
            assert source in FILE["volumes"]
        if source.startswith("secret-") and name != "init":
            assert options == ["ro"]
        if source.startswith("secret-"):
            assert target.startswith("/secrets/")


@every_service
def test_no_environment_holds_a_secret(name: str) -> None:
    """A variable that speaks of a secret names a file of it, which is in a folder that the service mounts."""
    service = SERVICES[name]
    folders = [mount.split(":")[1] for mount in service.get("volumes", [])]
    for variable, value in service.get("environment", {}).items():
        if re.search("PASSWORD|PEPPER|KEY|SECRET|TOKEN", variable):
            assert variable.endswith("_FILE")
            assert any(value.startswith(f"{folder}/") for folder in folders)
        assert not re.search(r"://[^/@]*:[^/@]*@", value), "a URL with a password"


@every_service
def test_variables_are_settings(name: str) -> None:
    """What the compose file sets of our services is what their settings know."""
    known = {
        f"{prefix}{field.upper()}{end}"
        for prefix, settings in (
            ("ROLLOUT_BUDGET_ALLOCATOR_", AllocatorSettings),
            ("ROLLOUT_BUDGET_PRIOR_", PriorSettings),
        )
        for field in settings.model_fields
        for end in ("", "_FILE")
    } | {"ROLLOUT_BUDGET_URL"}
    ours = {name for name in SERVICES[name].get("environment", {}) if name.startswith("ROLLOUT_BUDGET_")}
    assert ours <= known


@every_service
def test_dependencies_can_be_met(name: str) -> None:
    """What is waited for ends, or has a health check; and it is started by every profile that starts the one who waits."""
    profiles = set(SERVICES[name].get("profiles", []))
    for other, how in SERVICES[name].get("depends_on", {}).items():
        condition = "service_completed_successfully" if other in ONE_SHOTS else "service_healthy"
        assert how == {"condition": condition}
        assert profiles <= set(SERVICES[other].get("profiles", profiles))


def test_one_service_builds_each_image() -> None:
    """An image is built once, by a service that is always started with those that only use it."""
    built: dict[str, str] = {}
    for name, service in SERVICES.items():
        if "build" in service:
            assert built.setdefault(service["image"], name) == name
            assert (ROOT / service["build"]["dockerfile"]).exists()
    for name, service in SERVICES.items():
        if "rollout-budget" in service["image"]:
            builder = SERVICES[built[service["image"]]]
            assert set(service.get("profiles", [])) <= set(builder.get("profiles", service.get("profiles", []))), name


def test_profiles_are_documented() -> None:
    """Every profile stands in the documentation with its command."""
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    assert profiles == {"demo", "train", "gpu", "gpu-2", "train-gpu"}
    assert {profile for profile in profiles if f"--profile {profile} " not in DOCS} == set()


def test_gpus_are_reserved_where_they_are_used() -> None:
    """Services of the GPU profiles, and no others, ask for an NVIDIA device."""
    asking = {name for name, service in SERVICES.items() if "reservations" in service["deploy"]["resources"]}
    assert asking == {"prior-gpu", "vllm", "vllm-2", "trainer-gpu"}
    for name in asking:
        (device,) = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert device["capabilities"] == ["gpu"]


@every_dockerfile
def test_an_image_is_small_and_not_roots(path: Path) -> None:
    """Several stages, a pinned base, no cache, a user that is not root, and no pip, tests or compilers in the last stage.

    The GPU target of the prior service is not the last: it has a compiler, for a reason that stands there.
    """
    text = path.read_text()
    stages = text.split("\nFROM ")[1:]
    final = stages[-1]
    assert len(stages) > 2
    assert re.search(r"^ARG PYTHON=docker\.io/library/python:3\.11-slim-bookworm$", text, re.MULTILINE)
    runs = [run for run in re.findall(r"^RUN (.*?[^\\])$", text, re.MULTILINE | re.DOTALL) if "-m pip " in run]
    assert runs
    assert all(run.startswith("--mount=type=cache,target=/root/.cache/pip ") for run in runs), "caches stay outside"
    assert "--without-pip" in text
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE)[-1] == "10001:10001"
    assert "COPY tests" not in text
    assert "apt-get" not in final
    copied = set(re.findall(r"^COPY --from=\S+ (\S+)", text, re.MULTILINE))
    assert copied == {"/app", "/own"}


def test_an_image_is_given_only_what_is_installed() -> None:
    """The build's context is a closed list: no tests, no environments, no keys."""
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert allowed == {
        "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "rollout_budget", "services", "trainer",
    }  # fmt: skip


def test_prometheus_scrapes_every_service_of_ours() -> None:
    """Those of a profile by name alone, which resolves while they are there: without them nothing is down."""
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    always = {target for job in jobs for one in job["static_configs"] for target in one["targets"]}
    some = {f"{name}:{one['port']}" for job in jobs for one in job.get("dns_sd_configs", []) for name in one["names"]}
    asked = {name: " ".join(service["healthcheck"].get("test", [])) for name, service in SERVICES.items()}
    ours = {name: found[1] for name, test in asked.items() if (found := re.search(r":(\d+)/readyz", test))}
    assert always == {f"{name}:{port}" for name, port in ours.items() if "profiles" not in SERVICES[name]}
    assert some == {f"{name}:{port}" for name, port in ours.items() if "profiles" in SERVICES[name]}
