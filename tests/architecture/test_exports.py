"""The public surface changes on purpose or not at all."""

from __future__ import annotations

import importlib
import inspect

import pytest

import rollout_budget
from rollout_budget import client
from rollout_budget.client import Allocator
from tests.paths import ROOT

EXPORTS = {
    "AsyncSession", "Drawn", "Group", "Prompt", "Session",
    "AdminClient", "Allocator", "AllocatorClient", "CloseGroup", "CloseRequest", "DecideGroup", "DecideRequest",
    "Groups", "LocalAllocator", "ObserveGroup", "ObserveRequest", "OpenGroup", "OpenRequest", "OutcomeRange",
    "PlanCandidate", "PlanRequest",
    "PriorClient", "Range", "Reliability", "ResilientAllocator", "Retries", "RolloutBudgetError", "Rules", "RunLimits",
    "RunSpec", "SuppliedPrior", "SyncAdminClient", "SyncAllocatorClient", "SyncLocalAllocator", "SyncPriorClient",
    "first_wave", "next_wave",
}  # fmt: skip

CLIENT_EXPORTS = {
    "AdminClient", "Allocator", "AllocatorClient", "Breaker", "LocalAllocator", "Notice", "PriorClient",
    "RecordedAllocator", "ResilientAllocator", "Retries", "SyncAdminClient", "SyncAllocatorClient", "SyncLocalAllocator",
    "SyncPriorClient",
}  # fmt: skip

CONSTRUCTORS = {
    "AllocatorClient": "(base_url, api_key, *, timeout, retries, transport)",
    "SyncAllocatorClient": "(base_url, api_key, *, timeout, retries, transport)",
    "AdminClient": "(base_url, api_key, *, timeout, retries, transport)",
    "PriorClient": "(base_url, api_key, *, team, timeout, retries, transport)",
    "ResilientAllocator": "(client, *, notify, deadline_s, breaker, clock, journal)",
    "Retries": "(attempts, timeout_s, wait_initial_s, wait_max_s, wait_jitter_s)",
}
"""Names and order of parameters; types and defaults may grow."""


def shape(kind: type) -> str:
    """Return a constructor's parameters without types and defaults."""
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty, default=inspect.Parameter.empty)
        for parameter in inspect.signature(kind).parameters.values()
    ]
    return str(inspect.Signature(bare))


def test_exported_names_are_frozen() -> None:
    assert set(rollout_budget.__all__) == EXPORTS
    assert set(client.__all__) == CLIENT_EXPORTS


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_every_exported_name_is_there(name: str) -> None:
    assert name in dir(rollout_budget)
    assert getattr(rollout_budget, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        rollout_budget.nonsense  # noqa: B018


@pytest.mark.parametrize(("name", "signature"), CONSTRUCTORS.items())
def test_constructors_are_frozen(name: str, signature: str) -> None:
    assert shape(getattr(client, name)) == signature


@pytest.mark.parametrize("name", ["AllocatorClient", "LocalAllocator", "ResilientAllocator"])
def test_every_allocator_obeys_the_protocol(name: str) -> None:
    """With the same parameters, so that one can stand for the other."""
    kind = getattr(client, name)
    for method, declared in inspect.getmembers(Allocator, inspect.isfunction):
        if not method.startswith("_"):
            mine = inspect.signature(getattr(kind, method))
            assert list(mine.parameters) == list(inspect.signature(declared).parameters)


def test_types_are_shipped() -> None:
    """PEP 561: without the marker no user's type checker looks at ours."""
    assert (ROOT / "rollout_budget" / "py.typed").exists()
    assert importlib.import_module("rollout_budget").__doc__
