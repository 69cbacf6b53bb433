"""SQLite is for one process: a second one is refused with a clear line, and a killed one leaves nothing locked."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.allocator.test_crash import process

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]


async def refused(folder: Path) -> tuple[int | None, str]:
    """Start another service on the same folder; return its exit status and what it said."""
    command = ("-m", "services.allocator", "serve", "--data", str(folder), "--port", "0")
    other = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=asyncio.subprocess.PIPE)
    _, said = await other.communicate()
    return other.returncode, said.decode()


async def test_a_second_process_on_a_sqlite_file_is_refused(tmp_path: Path) -> None:
    """One line and exit code 2; after `kill -9` of the first, the file serves again."""
    async with process(tmp_path) as (first, _):
        status, said = await refused(tmp_path)
        assert status == 2
        assert said.splitlines()[-1] == (
            f"services.allocator: another process serves from {tmp_path / 'allocator.db'}: "
            "a SQLite file is for one; several take PostgreSQL"
        )
        first.kill()
        await first.wait()
    async with process(tmp_path) as (again, _):
        assert again.returncode is None
