"""Starts the prior service and the allocator on it, in this order, and waits until each answers that it is ready.

Owns ports, folders and wiring. Both are embedded: loopback, a SQLite file each, keys that they make for themselves.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from rollout_budget.cli.embedded.children import Child, ChildFailed, Program
from rollout_budget.cli.events import Ready
from rollout_budget.cli.live.terminal import Signals
from rollout_budget.cli.parsing import Usage

HOST = "127.0.0.1"
POLL_S = 0.1
"""Between two looks at a starting service, which takes a second at least."""
ANSWER_S = 2.0
"""Longest wait for one look."""
START_S = 120.0
"""Longest start: the prior service loads a sentence encoder, which takes 5 s on two idle cores and more on a cold disk."""

Say = Callable[[str], None]


class Stopped(Exception):
    """A signal came while the services were starting."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is wanted: a port of None is the usual one where it is free, else any; 0 is any."""

    data: Path
    allocator_port: int | None = None
    prior_port: int | None = None
    with_prior: bool = True
    with_demo: bool = False


class Stack:
    """Services that were started; `stop` ends them in reverse order."""

    def __init__(self, plan: Plan, signals: Signals, say: Say) -> None:
        self._plan = plan
        self._signals = signals
        self._say = say
        self.children: list[Child] = []

    def start(self) -> Ready:
        """Start what the plan wants; return where it is.

        Raises:
            ChildFailed: a service ended, or was not ready in time.
            Stopped: a signal came first.
            Usage: a port that was asked for is taken.
        """
        plan = self._plan
        prior_port = _port(plan.prior_port, 8101, "--prior-port") if plan.with_prior else 0
        allocator_port = _port(plan.allocator_port, 8100, "--port", taken=prior_port)
        prior_url = self._start_prior(prior_port) if plan.with_prior else None
        url = self._start_allocator(allocator_port, prior_url)
        folder = plan.data / "allocator"
        if plan.with_demo:
            self._start_demo(url, folder / "admin.key")
        return Ready(
            pid=os.getpid(),
            data=str(plan.data),
            allocator_url=url,
            dashboard_url=f"{url}/dashboard",
            admin_key_file=str(folder / "admin.key"),
            team_key_file=str(folder / "team.key"),
            allocator_log=str(self._log("allocator")),
            prior_url=prior_url,
            prior_key_file=str(plan.data / "prior" / "prior.key") if prior_url else None,
            prior_log=str(self._log("prior")) if prior_url else None,
            demo_log=str(self._log("demo")) if plan.with_demo else None,
        )

    def failure(self) -> ChildFailed | None:
        """Return what to say of a service that ended by itself."""
        return next((child.ended() for child in self.children if child.status is not None), None)

    def has_failed(self) -> bool:
        """Whether a service ended by itself."""
        return any(child.status is not None for child in self.children)

    def stop(self) -> None:
        """End all of them, the youngest first; each is waited for before the one that it asks."""
        while self.children:
            self.children.pop().stop()

    def _start_prior(self, port: int) -> str:
        env = {"MODE": "embedded", "HOST": HOST, "PORT": str(port), "DATA": str(self._plan.data / "prior")}
        command = ("-m", "services.prior_api")
        self._begin("prior service", command, "prior", {f"ROLLOUT_BUDGET_PRIOR_{key}": env[key] for key in env})
        return self._ready(port)

    def _start_allocator(self, port: int, prior_url: str | None) -> str:
        env = {"MODE": "embedded", "HOST": HOST, "PORT": str(port), "DATA": str(self._plan.data / "allocator")}
        if prior_url is not None:
            env["PRIOR_URL"] = prior_url
            env["PRIOR_KEY"] = (self._plan.data / "prior" / "prior.key").read_text("utf-8").strip()
        command = ("-m", "services.allocator", "serve")
        self._begin("allocator", command, "allocator", {f"ROLLOUT_BUDGET_ALLOCATOR_{key}": env[key] for key in env})
        return self._ready(port)

    def _start_demo(self, url: str, admin_key: Path) -> None:
        command = ("-m", "rollout_budget.cli", "demo", "--url", url, "--key-file", str(admin_key))
        self._begin("demo", command, "demo", {})

    def _begin(self, name: str, command: tuple[str, ...], log: str, env: dict[str, str]) -> None:
        self._say(f"starting the {name}")
        self.children.append(Child(Program(name, command, self._log(log), env)))

    def _ready(self, port: int) -> str:
        child, url = self.children[-1], f"http://{HOST}:{port}"
        began = time.monotonic()
        with httpx.Client(base_url=url, timeout=ANSWER_S, trust_env=False) as client:
            while not _answers(client):
                if self._signals.stop is not None:
                    raise Stopped
                if child.status is not None:
                    raise child.ended()
                if time.monotonic() - began > START_S:
                    raise ChildFailed(
                        f"the {child.program.name} was not ready after {START_S:g} s; see {child.program.log}"
                    )
                self._signals.wait(POLL_S)
        self._say(f"the {child.program.name} is ready at {url} after {time.monotonic() - began:.1f} s")
        return url

    def _log(self, name: str) -> Path:
        return self._plan.data / "logs" / f"{name}.log"


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _port(wanted: int | None, usual: int, option: str, taken: int | None = None) -> int:
    if wanted is None:
        return usual if _free(usual) and usual != taken else _port(0, usual, option, taken)
    if wanted == 0:
        with socket.create_server((HOST, 0)) as probe:
            return int(probe.getsockname()[1])
    if not _free(wanted) or wanted == taken:
        raise Usage(f"{option} {wanted}: something listens there; name another port, or 0 for any that is free")
    return wanted


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0
