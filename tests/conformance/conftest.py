"""One suite for every implementation: see `implementations` for how to add one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import tests.conformance.reborn
import tests.conformance.sql  # noqa: F401  registers the service's implementations
from rollout_budget.client.base import Allocator
from rollout_budget.engine.ports import Store
from tests.conformance.implementations import ALLOCATORS, STORES, World


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test once per registered implementation of what it asks for."""
    for name, registry in (("store", STORES), ("allocator", ALLOCATORS)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, list(registry), indirect=True)


@pytest.fixture
def world() -> World:
    """Return the time and the prior source of this test."""
    return World()


@pytest.fixture
async def store(request: pytest.FixtureRequest, world: World) -> AsyncIterator[Store]:
    """Yield a fresh store."""
    async with STORES[request.param](world) as made:
        yield made


@pytest.fixture
async def allocator(request: pytest.FixtureRequest, world: World) -> AsyncIterator[Allocator]:
    """Yield a fresh allocator of one team."""
    async with ALLOCATORS[request.param](world) as made:
        yield made
