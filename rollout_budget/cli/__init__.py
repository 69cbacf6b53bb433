"""The command `rollout-budget`: teams, keys, budgets and the log of changes, for people and for scripts.

Built on the client SDK alone: whatever it does, a program can do with `AdminClient` and `AllocatorClient`.
"""
