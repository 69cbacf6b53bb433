"""The stack under test: which images, ports and services, how it is built, and when it is ready.

Owns names that cannot meet those of a stack in use: a project, an image tag and free ports of its own. Where the images
of PostgreSQL and Prometheus are stand-ins that only work as root, images made from `stand_in` take their place, which
start as the users that the compose file names; nothing else of the file is changed.
"""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.compose.smoke.engine import ROOT, Engine, Failed
from tests.ports import free_port

PROJECT = "rollout-budget-smoke"
TAG = "smoke"
PYTHON = "docker.io/library/python:3.11-slim-bookworm"
POSTGRES = "docker.io/library/postgres:15-bookworm"
COMPOSE_FILE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PROMETHEUS = COMPOSE_FILE["services"]["prometheus"]["image"].removeprefix("${PROMETHEUS_IMAGE:-").removesuffix("}")
GRAFANA = COMPOSE_FILE["services"]["grafana"]["image"].removeprefix("${GRAFANA_IMAGE:-").removesuffix("}")
IMAGES: dict[str, str | None] = {"allocator": None, "prior": "cpu"}
"""What is built, and to which stage."""
STAND_IN = "tests/compose/stand_in"
READY_S = 180.0
"""Longest wait for a service after its container has started: the prior service loads PyTorch on a busy machine."""
LOOK_EVERY_S = 0.5
"""Containers tell nobody here when they are ready, so they are asked."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the services are published on this machine."""

    allocator: int
    prior: int
    prometheus: int
    grafana: int

    def variables(self) -> dict[str, str]:
        """Return what the compose file takes them from."""
        return {f"{name.upper()}_PORT": str(getattr(self, name)) for name in self.__slots__}

    def url(self, service: str) -> str:
        """Return where a service is."""
        return f"http://127.0.0.1:{getattr(self, service)}"


def free_ports() -> Ports:
    """Return four ports that nobody listens on now."""
    return Ports(*(free_port() for _ in range(4)))


@dataclass(slots=True)
class Stack:
    """The stack in an engine."""

    engine: Engine
    ports: Ports

    @property
    def services(self) -> list[str]:
        """What is started: everything without a profile; Grafana only where its image can be had."""
        started = [name for name, service in COMPOSE_FILE["services"].items() if "profiles" not in service]
        return started if self._has_grafana() else [name for name in started if name != "grafana"]

    @property
    def lasting(self) -> list[str]:
        """What goes on running."""
        return [name for name in self.services if "test" in COMPOSE_FILE["services"][name]["healthcheck"]]

    def build(self) -> str:
        """Build the two services' images; return their names."""
        for name, target in IMAGES.items():
            self.engine.build(f"rollout-budget-{name}:{TAG}", f"deploy/{name}.Dockerfile", target=target)
        return ", ".join(IMAGES)

    def sizes(self) -> dict[str, float]:
        """Return the sizes of images in MB: our two, and the one that both lie on, where the engine lists it."""
        sizes = {name: self.engine.image_bytes(f"rollout-budget-{name}:{TAG}") / 1e6 for name in IMAGES}
        if self.engine.has_image(PYTHON):
            sizes["their base image"] = self.engine.image_bytes(PYTHON) / 1e6
        return sizes

    def adopt_stand_ins(self) -> list[str]:
        """Build images from stand-ins where there are some; return the variables that name them."""
        if self.engine.cli != "podman" or not self.engine.has_image(POSTGRES) or self._is_official(POSTGRES):
            return []
        for name, base in (("postgres", POSTGRES), ("prometheus", PROMETHEUS)):
            image = f"localhost/{PROJECT}-{name}"
            self.engine.build(image, f"{STAND_IN}/{name}.Dockerfile", context=STAND_IN, BASE=base)
        return ["POSTGRES_IMAGE", "PROMETHEUS_IMAGE"]

    def ready(self) -> None:
        """Wait until both services answer that they are ready.

        Raises:
            Failed: one does not in time; with the end of its log.
        """
        for service in ("allocator", "prior"):
            url = f"{self.ports.url(service)}/readyz"
            try:
                wait_for(f"{service} to be ready", partial(answers, url))
            except Failed as error:
                raise Failed(f"{error}; its log ends with\n{self.engine.logs(service)[-2000:]}") from None

    def _has_grafana(self) -> bool:
        return self.engine.cli == "docker" or self.engine.has_image(GRAFANA)

    def _is_official(self, image: str) -> bool:
        found = json.loads(self.engine.run(self.engine.cli, "image", "inspect", image))
        return "docker-entrypoint.sh" in " ".join(found[0]["Config"].get("Entrypoint") or [])


def answers(url: str) -> bool:
    """Whether a URL answers with success."""
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


def wait_for(what: str, reached: Callable[[], bool], within_s: float = READY_S) -> float:
    """Ask until `reached`; return how long it took in seconds.

    Raises:
        Failed: it was not within `within_s`.
    """
    began = time.monotonic()
    while not reached():
        if time.monotonic() - began > within_s:
            raise Failed(f"waited {within_s:g} s in vain for {what}")
        time.sleep(LOOK_EVERY_S)
    return time.monotonic() - began


def version() -> str:
    """Return the project's version, which the compose file's images carry."""
    project: dict[str, Any] = tomllib.loads(Path(ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])
