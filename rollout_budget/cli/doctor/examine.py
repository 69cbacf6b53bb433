"""Which things are looked at, and where: options first, then the environment, then the word that a running `up` left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rollout_budget.cli.connection import ADMIN_KEY, DEFAULT_URL, TEAM_KEY, URL
from rollout_budget.cli.doctor import PRIOR_KEY, PRIOR_URL, servers, services, software, storage
from rollout_budget.cli.doctor.report import Check, fail, ok
from rollout_budget.cli.doctor.services import Secret
from rollout_budget.cli.embedded.folder import word_of

START = "start it with `rollout-budget up`, or correct --url"
START_PRIOR = "start it: python -m services.prior_api; until then groups open with the run's running mean as prior"


@dataclass(frozen=True, slots=True)
class Places:
    """What the options named; None where nothing was."""

    data: Path
    url: str | None = None
    key_file: Path | None = None
    admin_key_file: Path | None = None
    prior_url: str | None = None
    prior_key_file: Path | None = None
    database: str | None = None
    vllm: tuple[str, ...] = ()


def checks(places: Places) -> Iterator[Check]:
    """Look at everything, one thing after the other."""
    up = word_of(places.data)
    url = places.url or os.environ.get(URL) or (up.allocator_url if up else DEFAULT_URL)
    prior_url = places.prior_url or os.environ.get(PRIOR_URL) or (up.prior_url if up else None)
    ours = up if up is not None and up.allocator_url == url else None
    priors = up if up is not None and up.prior_url == prior_url else None
    yield from software.checks()
    yield from _service(
        "allocator",
        url,
        START,
        _Key(
            "team key",
            services.team_key,
            _file(places.key_file, TEAM_KEY, ours.team_key_file if ours else None),
            TEAM_KEY,
        ),
        _Key(
            "admin key",
            services.admin_key,
            _file(places.admin_key_file, ADMIN_KEY, ours.admin_key_file if ours else None),
            ADMIN_KEY,
        ),
    )
    if prior_url is None:
        yield ok("prior", "not looked at: no --prior-url; the allocator says by `degraded` when it misses its own")
    else:
        file = _file(places.prior_key_file, PRIOR_KEY, priors.prior_key_file if priors else None)
        yield from _service("prior", prior_url, START_PRIOR, _Key("prior key", services.prior_key, file, PRIOR_KEY))
    yield from storage.database(places.database or os.environ.get(storage.VARIABLE), places.data / "allocator")
    yield from storage.disk(places.data)
    yield from services.ports([url, prior_url or ""])
    for server in places.vllm:
        yield from servers.checks(server.rstrip("/"))


@dataclass(frozen=True, slots=True)
class _Key:
    """A key to look at: from a file, or else from a variable."""

    name: str
    look: Callable[[str, Secret], Iterator[Check]]
    file: Path | None
    variable: str


def _service(name: str, url: str, start: str, *keys: _Key) -> Iterator[Check]:
    """Look at a service, and ask it about keys where it answers."""
    found = list(services.reachable(name, url, start))
    yield from found
    for key in keys:
        yield from _key(key, url, asks=found[0].state == "ok")


def _key(key: _Key, url: str, *, asks: bool) -> Iterator[Check]:
    try:
        secret = services.secret_of(key.file, key.variable)
    except (OSError, UnicodeDecodeError) as error:
        yield fail(key.name, f"{key.file}: {getattr(error, 'strerror', None) or 'no text file'}", "name its file")
        return
    if secret is None:
        yield ok(key.name, f"none given: set {key.variable} or name its file to have it looked at")
    elif asks:
        yield from key.look(url, secret)
    else:
        yield from services.file_mode(key.name, secret)


def _file(named: Path | None, variable: str, of_up: str | None) -> Path | None:
    if named is not None or os.environ.get(variable):
        return named
    return Path(of_up) if of_up else None
