"""The synchronous clients are what the script makes of the asynchronous ones."""

from __future__ import annotations

import inspect

import pytest

from rollout_budget.client import (
    AdminClient,
    Allocator,
    AllocatorClient,
    PriorClient,
    ResilientAllocator,
    SyncAdminClient,
    SyncAllocatorClient,
    SyncPriorClient,
)
from scripts import unasync

PAIRS = [(AllocatorClient, SyncAllocatorClient), (AdminClient, SyncAdminClient), (PriorClient, SyncPriorClient)]


def methods(kind: type) -> dict[str, str]:
    """Public methods with their signatures."""
    found = inspect.getmembers(kind, inspect.isfunction)
    return {name: str(inspect.signature(method)) for name, method in found if not name.startswith("_")}


def test_committed_twins_are_up_to_date() -> None:
    """If this fails, run `python scripts/unasync.py`."""
    assert unasync.main(["--check"]) == 0


def test_a_change_of_the_source_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    source, twin = next(iter(unasync.TWINS.items()))
    monkeypatch.setattr(unasync, "TWINS", {source: twin.with_name("allocator.py")})
    assert unasync.main(["--check"]) == 1


def test_only_the_waiting_goes() -> None:
    source = (
        'async def f(c: AllocatorClient) -> None:\n    """Use `async with`."""\n    await c.open("await")  # await\n'
    )
    twin = 'def f(c: SyncAllocatorClient) -> None:\n    """Use `with`."""\n    c.open("await")  # await\n'
    assert unasync.unasync(source, "any.py") == twin


@pytest.mark.parametrize(("asynchronous", "synchronous"), PAIRS)
def test_twins_have_the_same_methods(asynchronous: type, synchronous: type) -> None:
    assert methods(asynchronous) == methods(synchronous)


@pytest.mark.parametrize("kind", [AllocatorClient, ResilientAllocator])
def test_the_protocol_is_obeyed_to_the_signature(kind: type) -> None:
    """A type checker says so too; this says it to whoever runs the tests alone."""
    assert methods(Allocator).items() <= methods(kind).items()
