"""Are the services there and ready, do keys work and what for, do clocks agree, who has the ports."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
from pydantic import ValidationError

from rollout_budget.cli.doctor.report import Check, fail, ok, warn
from rollout_budget.client import Retries, SyncAdminClient, SyncAllocatorClient, SyncPriorClient
from rollout_budget.errors import InvalidInput, NotFound, RolloutBudgetError, Unauthorized
from rollout_budget.wire import Health, Key
from rollout_budget.wire.access import MAX_PAGE

TIMEOUT_S = 5.0
"""Longest wait for one answer."""
ONCE = Retries(attempts=1)
SKEW_S = 5.0
"""Clocks further apart are worth a word: the header has whole seconds, and limits per day follow the database's clock."""
SOON = timedelta(days=5)
"""Keys that end within this time are named: a long weekend, and a day to act."""
MOST_NAMED = 5
"""Keys that are named one by one."""
OTHERS = stat.S_IRWXG | stat.S_IRWXO
USUAL_PORTS = (8100, 8101)


@dataclass(frozen=True, slots=True)
class Secret:
    """A key and where it comes from."""

    text: str
    file: Path | None = None
    variable: str = ""

    @property
    def source(self) -> str:
        """Its file or variable."""
        return f"{self.file}" if self.file else f"${self.variable}"


def reachable(name: str, url: str, start: str) -> Iterator[Check]:
    """Look whether a service is there and ready, and whether its clock agrees with ours; `start` says how to start it."""
    began = time.time()
    try:
        answer = httpx.get(f"{url.rstrip('/')}/readyz", timeout=TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        yield fail(name, f"no answer at {url}: {error}", start)
        return
    try:
        health = Health.model_validate_json(answer.content)
    except ValidationError:
        yield fail(
            name,
            f"what answers at {url} is no service of ours ({answer.status_code})",
            "name its address without a path",
        )
        return
    took = time.time() - began
    if health.status == "ok":
        yield ok(name, f"ready at {url}, answered in {took * 1e3:.0f} ms")
    else:
        yield fail(
            name, f"at {url}, not ready: {health.detail}", "see its log; it becomes ready by itself once that is there"
        )
    yield _clock(f"{name} clock", answer.headers.get("date"), began + took / 2)


def _clock(name: str, shown: str | None, now: float) -> Check:
    if shown is None:
        return ok(name, "not shown by the service")
    apart = now - parsedate_to_datetime(shown).timestamp() - 0.5  # the header has whole seconds, cut off
    if abs(apart) <= SKEW_S:
        return ok(name, "agrees with the clock here")
    ahead = "behind" if apart > 0 else "ahead of"
    return warn(
        name,
        f"{abs(apart):.0f} s {ahead} the clock here",
        "set both by NTP: limits per day and ends of keys follow the service",
    )


def file_mode(name: str, secret: Secret) -> Iterator[Check]:
    """Look whether others may read the file of a key."""
    if secret.file is not None and (mode := secret.file.stat().st_mode) & OTHERS:
        shown = f"{stat.S_IMODE(mode):o}"
        yield warn(
            name, f"others may read {secret.file} (mode {shown})", f"chmod 600 {secret.file}, and rotate the key"
        )


def team_key(url: str, secret: Secret) -> Iterator[Check]:
    """Look whether a team's key works, and what it may do."""
    name = "team key"
    yield from file_mode(name, secret)
    try:
        with SyncAllocatorClient(url, secret.text, timeout=TIMEOUT_S, retries=ONCE) as client:
            view = client.budget()
            scope = _scope(client)
    except Unauthorized:
        do = "it is unknown, ended, or an admin's: `rollout-budget admin keys list` shows, `... keys create` makes one"
        yield fail(name, f"the key in {secret.source} is not accepted", do)
        return
    except (RolloutBudgetError, InvalidInput) as error:
        yield fail(name, f"the key in {secret.source}: {error}", "see the line on the allocator")
        return
    yield ok(name, f"the key in {secret.source} works: team {view.team}, scope {scope}")
    for use in view.warnings:
        yield warn(
            "budget",
            f"{use.name} {use.used:,.0f} of {use.limit:,.0f}",
            f"`rollout-budget admin budget set {view.team}`",
        )


def _scope(client: SyncAllocatorClient) -> str:
    """Find out by a heartbeat of a run that cannot be there: who may write is told so, others that they may not."""
    try:
        client.heartbeat(f"doctor-{uuid4()}")
    except NotFound:
        return "team"
    except Unauthorized:
        return "read"
    return "team"


def admin_key(url: str, secret: Secret) -> Iterator[Check]:
    """Look whether an admin's key works, and which keys end soon."""
    name = "admin key"
    yield from file_mode(name, secret)
    keys: list[Key] = []
    try:
        with SyncAdminClient(url, secret.text, timeout=TIMEOUT_S, retries=ONCE) as client:
            page = client.list_keys(limit=MAX_PAGE)
            keys += page.keys
            while page.next is not None:
                page = client.list_keys(after=page.next, limit=MAX_PAGE)
                keys += page.keys
    except Unauthorized:
        do = "take the key that the allocator was started with (embedded: its data folder's admin.key)"
        yield fail(name, f"the key in {secret.source} is not accepted, or is no admin's", do)
        return
    except (RolloutBudgetError, InvalidInput) as error:
        yield fail(name, f"the key in {secret.source}: {error}", "see the line on the allocator")
        return
    active = [key for key in keys if key.status == "active"]
    yield ok(
        name,
        f"the key in {secret.source} works; {len(active)} active keys of {len({key.team for key in active})} teams",
    )
    yield from _ending(active)


def _ending(active: list[Key]) -> Iterator[Check]:
    soon = datetime.now(UTC) + SOON
    ending = [key for key in active if key.expires_at is not None and key.expires_at < soon]
    for key in ending[:MOST_NAMED]:
        label = f" ({key.label})" if key.label else ""
        ends = f"key {key.key_id} of team {key.team}{label} ends at {key.expires_at:%Y-%m-%d %H:%MZ}"
        yield warn("keys", ends, f"rollout-budget admin keys rotate {key.key_id} --grace 1d --file NEW.key")
    if len(ending) > MOST_NAMED:
        yield warn("keys", f"{len(ending) - MOST_NAMED} more end as soon", "rollout-budget admin keys list shows them")


def prior_key(url: str, secret: Secret) -> Iterator[Check]:
    """Look whether a key of the prior service works, and what it predicts with."""
    name = "prior key"
    yield from file_mode(name, secret)
    try:
        with SyncPriorClient(url, secret.text, team="default", timeout=TIMEOUT_S, retries=ONCE) as client:
            answer = client.policies()
    except Unauthorized:
        yield fail(
            name,
            f"the key in {secret.source} is not accepted",
            "take the prior's own (embedded: its data folder's prior.key)",
        )
        return
    except (RolloutBudgetError, InvalidInput) as error:
        yield fail(name, f"the key in {secret.source}: {error}", "see the line on the prior service")
        return
    model = answer.model
    heads = (
        ""
        if model is None
        else f"; predicts with {', '.join(head.name for head in model.heads)} on {model.encoder.name}"
    )
    yield ok(name, f"the key in {secret.source} works{heads}")


def ports(urls: list[str]) -> Iterator[Check]:
    """Look whether the ports that `up` takes are free, or are the services' own."""
    own = {_port(url) for url in urls}
    for port in USUAL_PORTS:
        if port in own:
            continue
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                yield ok(f"port {port}", "free")
            else:
                yield warn(f"port {port}", "something else listens", "`rollout-budget up` takes another one by itself")


def _port(url: str) -> int | None:
    """Return the port that an address names; None of one that is no address, which another check says."""
    try:
        return urlsplit(url).port
    except ValueError:
        return None


def secret_of(file: Path | None, variable: str) -> Secret | None:
    """Return a key from a file or a variable, None without either.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read.
    """
    if file is not None:
        return Secret(file.read_text(encoding="utf-8"), file)
    text = os.environ.get(variable)
    return Secret(text, None, variable) if text else None
