"""A run is declared to its allocator, or the setting that is in the way is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollout_budget.client import LocalAllocator, Notice, ResilientAllocator
from rollout_budget.errors import Unauthorized
from rollout_budget.wire import PacingSettings, Run, RunSpec
from trainer.config import load
from trainer.errors import ConfigError
from trainer.runs import declare, run_spec


class _Closed(LocalAllocator):
    async def create_run(self, spec: RunSpec) -> Run:
        raise Unauthorized(f"unknown key for {spec.run_id}")


async def test_a_wrong_key_is_told_with_its_file(tmp_path: Path) -> None:
    """One error that names the setting, and no notice that the allocator is away."""
    said: list[Notice] = []
    config = load(None, ["allocator.url=http://allocator.test", "allocator.key_file=my.key"])
    (tmp_path / "run").mkdir()
    with pytest.raises(ConfigError, match=r"^allocator\.key_file = 'my\.key': unknown key for run$"):
        await declare(ResilientAllocator(_Closed(), notify=said.append), config, tmp_path / "run")
    assert said == []


async def test_a_run_is_declared_as_at_first_and_then_changed(tmp_path: Path) -> None:
    """A price by hand would win over pacing; a raised limit is a change of the run, not another run."""
    (tmp_path / "run").mkdir()
    paced = ["allocator.pacing_steps=50", "rollouts.prompts_per_step=4", "run.rollouts=900"]
    allocator = LocalAllocator()
    first = (await declare(allocator, load(None, paced), tmp_path / "run")).spec
    assert first == run_spec(load(None, paced), tmp_path / "run")
    assert (first.price, first.pacing) == (None, PacingSettings(steps=50))
    later = (await declare(allocator, load(None, [*paced, "run.rollouts=1200"]), tmp_path / "run")).spec
    assert (later.pacing, later.limits.rollouts) == (PacingSettings(steps=50), 1200)


def test_a_run_with_a_price_is_not_paced(tmp_path: Path) -> None:
    """The default."""
    spec = run_spec(load(), tmp_path / "run")
    assert (spec.price, spec.pacing) == (0.015625, None)
