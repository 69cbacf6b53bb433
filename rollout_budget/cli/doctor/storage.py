"""The allocator's database, as the allocator's own code sees it, and the room on the disk where data lie.

This package reads no database: it asks `python -m services.allocator check`, where the services are installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from rollout_budget.cli.doctor.report import Check, fail, ok, warn

VARIABLE = "ROLLOUT_BUDGET_ALLOCATOR_DATABASE_URL"
CHECK_S = 60.0
"""Longest wait: a first connection is given up after 10 s, and Python starts slowly on a busy machine."""
LITTLE_BYTES = 1 << 30
"""A ledger grows by some 100 bytes a group; below a gigabyte a day of a large team may not fit."""
NOTHING_BYTES = 100 << 20
"""SQLite alone writes 32 MB ahead of its file."""


def database(url: str | None, data: Path) -> Iterator[Check]:
    """Look at a database by its URL, else at the file of an embedded allocator in this folder."""
    name = "database"
    if url is None and not (data / "allocator.db").exists():
        yield ok(name, f"none in {data}; the first start of an embedded allocator makes one")
        return
    if find_spec("services") is None:
        yield warn(
            name, "not looked at: the services are not installed here", "pip install 'rollout-budget[allocator]'"
        )
        return
    env = {"ROLLOUT_BUDGET_ALLOCATOR_DATA": str(data), **({} if url is None else {VARIABLE: url})}
    yield _asked(name, env)


def disk(data: Path) -> Iterator[Check]:
    """Look at the room where a folder lies, or would lie."""
    there = data
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    said = f"{free / 2**30:,.1f} GiB free at {there}"
    if not os.access(there, os.W_OK):
        yield fail(
            "disk",
            f"{there} cannot be written",
            f"give yourself the right to write there, or name another --data: chmod u+w {there}",
        )
    elif free < NOTHING_BYTES:
        yield fail("disk", said, "make room now: a database on a full disk refuses every grant")
    elif free < LITTLE_BYTES:
        yield warn("disk", said, "make room, or archive old entries: python -m services.allocator archive --to FOLDER")
    else:
        yield ok("disk", said)


def _asked(name: str, env: Mapping[str, str]) -> Check:
    others = {key: value for key, value in os.environ.items() if not key.startswith("ROLLOUT_BUDGET_ALLOCATOR_")}
    command = [sys.executable, "-m", "services.allocator", "check", "--mode", "embedded"]
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, env={**others, **env}, capture_output=True, text=True, timeout=CHECK_S, check=False
        )
    except subprocess.TimeoutExpired:
        return fail(name, f"no word of it within {CHECK_S:g} s", "see whether its host can be reached from here")
    said = done.stdout.strip().splitlines()[-1:]
    try:
        found = json.loads(said[0]) if said else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        last = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        return fail(
            name, last[0].removeprefix("services.allocator: "), "start it, or correct its address, user and password"
        )
    return _judged(name, found)


def _judged(name: str, found: Mapping[str, object]) -> Check:
    place = f"{found['database']} at schema {found['schema'] or 'none'}"
    if not found["current"]:
        do = "run `python -m services.allocator migrate` with the same settings; embedded does so when it starts"
        return fail(name, f"{place}, this release works with {found['newest']}", do)
    if found["refused"]:
        return fail(
            name,
            f"{place}, takes no writes: {found['refused']}",
            "name the primary, or see rights and room of the file",
        )
    return ok(name, f"{place}, takes writes")
