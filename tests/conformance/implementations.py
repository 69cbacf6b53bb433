"""What the conformance suite is run against, and how to add an implementation.

Put a factory into `STORES` (a store with its ledger) or `ALLOCATORS` (the whole protocol) from any module that
`tests/conformance/conftest.py` imports, keyed by the name that tests show as their parameter:

    @asynccontextmanager
    async def sqlite(world: World) -> AsyncIterator[Store]:
        ...                      # a fresh, empty store
        yield store
    STORES["sqlite"] = sqlite

A factory gets the `World` of the test: the time, which a test moves by hand, and the prior source to use. Time may also
pass by itself (a database's clock does): add `world.clock.elapsed_s` to it. No test depends on less than a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from rollout_budget.client.base import Allocator
from rollout_budget.client.local import LocalAllocator
from rollout_budget.engine import MemoryStore
from rollout_budget.engine.ports import PriorSource, Store
from rollout_budget.errors import ServiceError
from rollout_budget.wire import EvidenceRow, PriorModel, Prompt, TeamLimits, Value, ValuesAnswer

START_S = 1_790_000_000.0
"""2026-09-21, some hours after midnight UTC: a test may pass seconds without passing midnight."""
PATIENCE_S = 30.0
"""How long a test waits for a background delivery before it fails; it goes on as soon as the delivery is there."""


@dataclass(slots=True)
class ManualClock:
    """A clock that only a test moves."""

    elapsed_s: float = 0.0

    def __call__(self) -> float:
        return START_S + self.elapsed_s

    def advance(self, seconds: float) -> None:
        self.elapsed_s += seconds


@dataclass(slots=True)
class ScriptedPriors:
    """A prior source that does as told: `table` by prompt key (else `default`), or `failure`, as often as set."""

    table: dict[str, float] = field(default_factory=dict)
    default: float = 0.5
    failure: ServiceError | None = None
    asked: list[tuple[str, int, tuple[str, ...]]] = field(default_factory=list)
    texts: dict[str, str | None] = field(default_factory=dict)
    evidence: dict[str, EvidenceRow] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def values(
        self, team: str, policy: str, version: int, prompts: Sequence[Prompt], model: PriorModel
    ) -> ValuesAnswer:
        del team
        self.asked.append((policy, version, tuple(prompt.key for prompt in prompts)))
        self.texts |= {prompt.key: prompt.text for prompt in prompts}
        if self.failure is not None:
            raise self.failure
        values = [self.table.get(prompt.key, self.default) for prompt in prompts]
        return ValuesAnswer(
            values=[
                Value(key=prompt.key, value=value, standard_error=0.1, evidence_count=3)
                for prompt, value in zip(prompts, values, strict=True)
            ],
            model=model,
            model_version="scripted",
            evidence_version=7,
        )

    async def add_evidence(self, team: str, policy: str, rows: Sequence[EvidenceRow]) -> None:
        del team, policy
        if self.failure is not None:
            raise self.failure
        self.evidence |= {row.id: row for row in rows}
        self.arrived.set()

    async def received(self, rows: int) -> list[EvidenceRow]:
        """Return the evidence, sorted by prompt, once so many rows are there: a service delivers on its own time."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.evidence) < rows:
                self.arrived.clear()
                await self.arrived.wait()
        return sorted(self.evidence.values(), key=lambda row: row.key)


@dataclass(frozen=True, slots=True)
class World:
    """What a test controls around an implementation."""

    clock: ManualClock = field(default_factory=ManualClock)
    priors: ScriptedPriors = field(default_factory=ScriptedPriors)
    limits: TeamLimits = field(default_factory=TeamLimits)


StoreFactory = Callable[[World], AbstractAsyncContextManager[Store]]
AllocatorFactory = Callable[[World], AbstractAsyncContextManager[Allocator]]


@asynccontextmanager
async def memory_store(world: World) -> AsyncIterator[Store]:
    yield MemoryStore(world.clock)


@asynccontextmanager
async def local_allocator(world: World) -> AsyncIterator[Allocator]:
    priors: PriorSource = world.priors
    yield LocalAllocator("team", priors, world.limits, world.clock)


STORES: dict[str, StoreFactory] = {"memory": memory_store}
ALLOCATORS: dict[str, AllocatorFactory] = {"local": local_allocator}
