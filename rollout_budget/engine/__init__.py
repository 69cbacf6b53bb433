"""The allocator's protocol, written once, over two ports: a store with its ledger, and a source of priors."""

from __future__ import annotations

from rollout_budget.engine.engine import Engine
from rollout_budget.engine.history import HistoryPrior
from rollout_budget.engine.memory import MemoryStore

__all__ = ["Engine", "HistoryPrior", "MemoryStore"]
