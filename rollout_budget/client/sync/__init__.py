"""The synchronous clients, generated from the asynchronous ones by `scripts/unasync.py`: edit those instead."""

from __future__ import annotations

from rollout_budget.client.sync.admin import SyncAdminClient
from rollout_budget.client.sync.allocator import SyncAllocatorClient
from rollout_budget.client.sync.prior import SyncPriorClient

__all__ = ["SyncAdminClient", "SyncAllocatorClient", "SyncPriorClient"]
