"""The allocator with a file, under the harshest use: before every single call it is made anew from what the file says.

So the suite proves that nothing an answer depends on is lost with the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from rollout_budget.client.base import Allocator
from rollout_budget.client.recorded import RecordedAllocator
from tests.conformance.implementations import ALLOCATORS, World


class Reborn:
    """Passes every call to an allocator that has just risen from the file."""

    def __init__(self, path: Path, world: World) -> None:
        self._path = path
        self._world = world

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            world = self._world
            risen = await RecordedAllocator.restored(self._path, "team", world.priors, world.limits, world.clock)
            return await getattr(risen, name)(*arguments, **options)

        return call


@asynccontextmanager
async def reborn_allocator(world: World) -> AsyncIterator[Allocator]:
    with tempfile.TemporaryDirectory() as folder:
        yield cast("Allocator", Reborn(Path(folder) / "allocator.jsonl", world))


ALLOCATORS["recorded"] = reborn_allocator
