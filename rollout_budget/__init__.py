"""Priors, baselines and budgets for reinforcement learning rollouts: the pure core and the client SDK.

    import rollout_budget as rb

    allocator = rb.SyncLocalAllocator()  # no server; or rb.SyncAllocatorClient(url, key)
    allocator.create_run(rb.RunSpec(run_id="first", policy="mine"))
    opened = allocator.open("first", rb.OpenRequest(groups=[rb.OpenGroup(group_id="g0", prompt_key="p0")]))
    print(opened.groups[0].grant)  # rollouts to draw now

Importing this package pulls in numpy, pydantic and httpx, never torch, a server or a database; each name below is
loaded when it is first used. All request and answer types are in `rollout_budget.wire`, all errors in
`rollout_budget.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rollout_budget.client import (
        AdminClient,
        Allocator,
        AllocatorClient,
        LocalAllocator,
        PriorClient,
        ResilientAllocator,
        Retries,
        SyncAdminClient,
        SyncAllocatorClient,
        SyncLocalAllocator,
        SyncPriorClient,
    )
    from rollout_budget.decisions import Rules, first_wave, next_wave
    from rollout_budget.errors import RolloutBudgetError
    from rollout_budget.groups import Groups
    from rollout_budget.outcomes import OutcomeRange
    from rollout_budget.reliability import Reliability
    from rollout_budget.session import AsyncSession, Drawn, Group, Prompt, Session
    from rollout_budget.wire import (
        CloseGroup,
        CloseRequest,
        DecideGroup,
        DecideRequest,
        ObserveGroup,
        ObserveRequest,
        OpenGroup,
        OpenRequest,
        PlanCandidate,
        PlanRequest,
        Range,
        RunLimits,
        RunSpec,
        SuppliedPrior,
    )

__all__ = [
    "AdminClient",
    "Allocator",
    "AllocatorClient",
    "AsyncSession",
    "CloseGroup",
    "CloseRequest",
    "DecideGroup",
    "DecideRequest",
    "Drawn",
    "Group",
    "Groups",
    "LocalAllocator",
    "ObserveGroup",
    "ObserveRequest",
    "OpenGroup",
    "OpenRequest",
    "OutcomeRange",
    "PlanCandidate",
    "PlanRequest",
    "PriorClient",
    "Prompt",
    "Range",
    "Reliability",
    "ResilientAllocator",
    "Retries",
    "RolloutBudgetError",
    "Rules",
    "RunLimits",
    "RunSpec",
    "Session",
    "SuppliedPrior",
    "SyncAdminClient",
    "SyncAllocatorClient",
    "SyncLocalAllocator",
    "SyncPriorClient",
    "first_wave",
    "next_wave",
]

_MODULES = ("client", "session", "wire", "decisions", "groups", "outcomes", "reliability", "errors")
"""Where the names are looked for, in this order."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = getattr(import_module(f"{__name__}.{module}"), name, None)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
