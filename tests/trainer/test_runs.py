"""A run is declared to its allocator, or the setting that is in the way is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollout_budget.client import LocalAllocator, Notice, ResilientAllocator
from rollout_budget.errors import Unauthorized
from rollout_budget.wire import Run, RunSpec
from trainer.config import load
from trainer.errors import ConfigError
from trainer.runs import declare


class _Closed(LocalAllocator):
    async def create_run(self, spec: RunSpec) -> Run:
        raise Unauthorized(f"unknown key for {spec.run_id}")


async def test_a_wrong_key_is_told_with_its_file(tmp_path: Path) -> None:
    """One error that names the setting, and no notice that the allocator is away."""
    said: list[Notice] = []
    config = load(None, ["allocator.url=http://allocator.test", "allocator.key_file=my.key"])
    (tmp_path / "run").mkdir()
    with pytest.raises(ConfigError, match=r"^allocator\.key_file = 'my\.key': unknown key for run$"):
        await declare(ResilientAllocator(_Closed(), notify=said.append), config, tmp_path / "run", used=0)
    assert said == []
