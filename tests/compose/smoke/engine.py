"""The container engine: finds one, and does with it what the smoke test needs. Knows no service of the stack.

Docker is taken with its Compose plugin, podman with podman-compose from `.cache/tools/compose` (`scripts/tools/compose`).
Containers are found by the labels that both put on them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PODMAN_COMPOSE = ROOT / ".cache" / "tools" / "compose" / "bin" / "podman-compose"
PROBE_S = 20
"""Longest wait for an engine to say that it is there."""
COMMAND_S = 1500
"""Longest wait for one command: a build of all images on two slow cores."""
STOP_S = 40
"""Time to stop before a container is killed: more than a service's own 5 s of notice and 20 s of drain."""


class Failed(Exception):
    """A command of the engine failed; the end of its output says why."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine and one project in it.

    Args:
        cli: `docker` or `podman`.
        compose: its Compose command.
        project: name of containers, networks and volumes.
        variables: what the compose file is given beside this process's environment.
    """

    cli: str
    compose: tuple[str, ...]
    project: str
    variables: Mapping[str, str]

    def run(self, *command: str, timeout_s: float = COMMAND_S) -> str:
        """Run a command; return what it printed, standard error included.

        Raises:
            Failed: it ended with another status than 0, or not at all.
        """
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=dict(os.environ) | dict(self.variables),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{' '.join(command)}: not done after {error.timeout:g} s") from None
        if done.returncode:
            raise Failed(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-3000:]}")
        return done.stdout

    def up(self, services: Sequence[str]) -> None:
        """Start services in the background, from images that are there."""
        self.run(*self.compose, "-p", self.project, "up", "-d", "--no-build", *services)

    def down(self, *, volumes: bool) -> None:
        """Remove containers and networks, and volumes if asked to."""
        self.run(*self.compose, "-p", self.project, "down", *(["-v"] if volumes else []))

    def container(self, service: str) -> str:
        """Return the id of a service's container.

        Raises:
            Failed: there is none.
        """
        labels = {"com.docker.compose.project": self.project, "com.docker.compose.service": service}
        filters = [part for name, value in labels.items() for part in ("--filter", f"label={name}={value}")]
        found = self.run(self.cli, "ps", "-aq", *filters).split()
        if not found:
            raise Failed(f"no container of {service}")
        return found[0]

    def exec(self, service: str, *command: str) -> str:
        """Run a command in a service's container."""
        return self.run(self.cli, "exec", self.container(service), *command)

    def logs(self, service: str) -> str:
        """Return everything that a service has logged."""
        return self.run(self.cli, "logs", self.container(service))

    def restart(self, service: str) -> None:
        """Stop a service in order and start it again, with what it requires: podman's own restart refuses where that ended."""
        self.run(self.cli, "stop", "-t", str(STOP_S), self.container(service))
        self.run(self.cli, "start", self.container(service))

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of a service's container."""
        found: list[dict[str, Any]] = json.loads(self.run(self.cli, "inspect", self.container(service)))
        return found[0]

    def image_bytes(self, image: str) -> int:
        """Return the size of an image with all its layers."""
        return int(self.run(self.cli, "image", "inspect", "--format", "{{.Size}}", image))

    def has_image(self, image: str) -> bool:
        """Whether an image is there without pulling it."""
        try:
            self.run(self.cli, "image", "inspect", image)
        except Failed:
            return False
        return True

    def build(self, tag: str, file: str, *, target: str | None = None, context: str = ".", **arguments: str) -> None:
        """Build an image; with podman from the base images at hand, and over the host's network."""
        options = ["--pull=never", "--network=host", "--format=docker"] if self.cli == "podman" else []
        options += ["--target", target] if target else []
        for name, value in arguments.items():
            options += ["--build-arg", f"{name}={value}"]
        self.run(self.cli, "build", *options, "-q", "-t", tag, "-f", file, context)


def find(project: str, variables: Mapping[str, str]) -> Engine | str:
    """Return the engine that is there, or why there is none."""
    if _answers("docker", "info") and _answers("docker", "compose", "version"):
        return Engine("docker", ("docker", "compose"), project, variables)
    if not _answers("podman", "info"):
        return "no container engine: neither Docker with Compose nor podman answers"
    if not PODMAN_COMPOSE.exists():
        return f"podman is there but no podman-compose at {PODMAN_COMPOSE.relative_to(ROOT)}: run scripts/tools/compose"
    return Engine("podman", (str(PODMAN_COMPOSE),), project, variables)


def _answers(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        return subprocess.run(command, capture_output=True, timeout=PROBE_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
