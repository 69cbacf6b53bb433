"""What trainers do in these tests: steps of groups with the caller's own priors, outcomes fixed by their names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from rollout_budget.client import AllocatorClient
from rollout_budget.client.base import Allocator
from rollout_budget.wire import (
    CloseGroup,
    CloseRequest,
    Decision,
    ObserveGroup,
    ObserveRequest,
    OpenGroup,
    OpenRequest,
    RunSpec,
    SuppliedPrior,
)

GROUPS = 4
SPEC = RunSpec(run_id="r", policy="p", k_max=8)


def outcome(group: str, sample: int) -> float:
    """Return an outcome as if by chance, the same for the same sample wherever it is drawn."""
    digest = hashlib.sha256(f"{group}/{sample}".encode()).digest()
    return float(digest[0] < 64 + 128 * (digest[1] % 2))


@dataclass
class Trainer:
    """Takes steps and keeps what was acknowledged."""

    name: str
    used: dict[str, int] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    steps: int = 0
    granted: bool = True

    async def step(self, allocator: Allocator | AllocatorClient) -> None:
        """Open, observe to the end, close."""
        names = [f"{self.name}-{self.steps}-{place}" for place in range(GROUPS)]
        prior = SuppliedPrior(value=0.5)
        opening = [OpenGroup(group_id=name, prompt_key=name, prior=prior) for name in names]
        opened = (await allocator.open("r", OpenRequest(groups=opening))).groups
        drawn = {group.group_id: group.grant for group in opened}
        asking = [name for name in names if drawn[name]]
        self.granted = bool(asking)
        while asking:
            seen = [
                ObserveGroup(group_id=name, outcomes=[outcome(name, sample) for sample in range(drawn[name])])
                for name in asking
            ]
            decided = (await allocator.observe("r", ObserveRequest(groups=seen))).groups
            self.decisions += decided
            asking = [decision.group_id for decision in decided if decision.more]
            drawn |= {decision.group_id: drawn[decision.group_id] + decision.more for decision in decided}
        closing = [CloseGroup(group_id=name, used=drawn[name]) for name in names]
        closed = await allocator.close("r", CloseRequest(groups=closing))
        assert [group.committed for group in closed.groups] == [drawn[name] for name in names]
        self.used |= drawn
        self.steps += 1
