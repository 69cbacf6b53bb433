"""The allocator: runs, groups, decisions and the ledger of rollouts over REST.

The rules are `rollout_budget.engine`'s; this service adds storage, keys, a network and a clock.
"""
