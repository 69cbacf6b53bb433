"""G19: the previous release serves on the new schema beside the new one, before, during and after the migration."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.postgres import postgres_url
from tests.replicas.fleet import ADMIN_KEY, PEPPER, ROOT, Fleet, client, key_of
from tests.replicas.test_replicas import audited
from tests.replicas.work import SPEC, Trainer

__all__ = ["postgres_url"]
pytestmark = [pytest.mark.services, pytest.mark.postgres, pytest.mark.timeout(900)]
PREVIOUS = "481b5e8"
"""The last commit with the schema before the migrations that this test is about."""
ITS_SCHEMA = "0002"


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the code of the previous release, from the history."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("no git history here: the code of the previous release comes from it")
    packed = subprocess.run(
        [git, "-C", str(ROOT), "archive", PREVIOUS, "rollout_budget", "services"], capture_output=True, check=False
    )
    if packed.returncode:
        pytest.skip(f"commit {PREVIOUS} is not in this history (a shallow clone?)")
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


async def migrated_by(code: Path, url: str, *options: str) -> None:
    """Run the `migrate` command of this code, once: it waits for requests by itself."""
    settings = {"MODE": "production", "DATABASE_URL": url, "PEPPER": PEPPER, "ADMIN_KEY": ADMIN_KEY}
    mine = {f"ROLLOUT_BUDGET_ALLOCATOR_{name}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "services.allocator", "migrate", *options),
        env={**os.environ, "PYTHONPATH": str(code), **mine},
        cwd=code,
    )
    assert await process.wait() == 0


async def test_g19_old_and_new_code_serve_together_through_upgrade_and_downgrade(
    postgres_url: str, previous: Path
) -> None:
    """Trainers never stop: old code alone, the migration, both releases, old code alone again, the way back."""
    trainers = [Trainer(name) for name in "abc"]
    stop = asyncio.Event()
    await migrated_by(previous, postgres_url)
    async with Fleet(postgres_url) as fleet:
        old = await fleet.start(previous)
        token = await key_of(fleet, "team")

        async def work(trainer: Trainer, seed: int) -> None:
            async with client(fleet, token, seed, twice=0.1) as own:
                while not stop.is_set():
                    await trainer.step(own)

        async with client(fleet, token, seed=0) as own:
            await own.create_run(SPEC)
            load = [asyncio.create_task(work(trainer, seed)) for seed, trainer in enumerate(trainers)]

            async def some_steps() -> None:
                before = [trainer.steps for trainer in trainers]
                while any(trainer.steps < was + 3 for trainer, was in zip(trainers, before, strict=True)):
                    await asyncio.sleep(0.1)
                    for task in load:
                        if task.done():
                            task.result()

            await some_steps()
            await migrated_by(ROOT, postgres_url)
            await some_steps()
            new = await fleet.start()
            await some_steps()
            assert await own.create_run(SPEC)
            await audited(postgres_url)
            await fleet.retire(new)
            await some_steps()
            await migrated_by(ROOT, postgres_url, "--to", ITS_SCHEMA)
            await some_steps()
            stop.set()
            await asyncio.gather(*load)
            usage = (await own.get_run("r")).usage
        assert old.process.returncode is None
    assert usage.committed == sum(sum(trainer.used.values()) for trainer in trainers)
    assert (usage.reserved, usage.overage) == (0, 0)
    await migrated_by(ROOT, postgres_url)
    await audited(postgres_url)
