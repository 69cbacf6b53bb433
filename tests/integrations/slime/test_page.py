"""What docs/integrations/slime.md prints can be copied: arguments and settings, at slime's call sites."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest
import yaml

import rollout_budget as rb
from rollout_budget.integrations.slime.books import leave
from tests.integrations.conftest import Service
from tests.integrations.pages import printed
from tests.integrations.slime.stand_in import Rollouts, arguments, installed

pytestmark = [pytest.mark.services]


def given(block: str) -> dict[str, Any]:
    """Return the arguments of a block as slime's parser would: names with underscores, numbers as such."""
    pairs = [line.removeprefix("--").split() for line in block.splitlines()]
    return {name.replace("-", "_"): int(value) if value.isdecimal() else value for name, value in pairs}


@pytest.mark.parametrize("place", [0, 1], ids=["waves", "fixed"])
def test_settings_and_arguments_work_as_printed(service: Service, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """Slime sets the file's keys on its arguments; the environment names the allocator."""
    export, *blocks = printed("slime.md", "bash")
    (settings,) = printed("slime.md", "yaml")
    names = ("ROLLOUT_BUDGET_URL", "ROLLOUT_BUDGET_KEY")
    assert all(f"{name}=" in export for name in names)
    for name, value in zip(names, (service.url, service.key), strict=True):
        monkeypatch.setenv(name, value)
    declared = yaml.safe_load(settings)
    declared["rollout_budget"]["run"] += str(place)
    args = Namespace(**{**vars(arguments()), **given(blocks[place]), **declared})
    with installed(lambda _: 0.5):
        step = Rollouts(args, [f"prompt {number}" for number in range(4)]).step(0)
    leave()
    with rb.SyncAllocatorClient(service.url, service.key) as client:
        usage = client.get_run(f"my-run{place}").usage
    assert (usage.committed, usage.overage) == (step.drawn, 0)
    assert len(step.samples) == (4 * 8 if place else step.drawn) >= 4
    assert any(step.rewards)
