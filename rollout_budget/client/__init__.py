"""Clients of both services, asynchronous and synchronous, and the same protocol with a fallback or with no server."""

from __future__ import annotations

from rollout_budget.client._exchange import Retries
from rollout_budget.client.admin import AdminClient
from rollout_budget.client.allocator import AllocatorClient
from rollout_budget.client.base import Allocator
from rollout_budget.client.breaker import Breaker
from rollout_budget.client.local import LocalAllocator, SyncLocalAllocator
from rollout_budget.client.notices import Notice
from rollout_budget.client.prior import PriorClient
from rollout_budget.client.recorded import RecordedAllocator
from rollout_budget.client.resilient import ResilientAllocator
from rollout_budget.client.sync import SyncAdminClient, SyncAllocatorClient, SyncPriorClient

__all__ = [
    "AdminClient",
    "Allocator",
    "AllocatorClient",
    "Breaker",
    "LocalAllocator",
    "Notice",
    "PriorClient",
    "RecordedAllocator",
    "ResilientAllocator",
    "Retries",
    "SyncAdminClient",
    "SyncAllocatorClient",
    "SyncLocalAllocator",
    "SyncPriorClient",
]
