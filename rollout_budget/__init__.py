"""Priors, baselines and budgets for reinforcement learning rollouts: the pure core and the client SDK.

Importing this package pulls in numpy, pydantic and httpx, never torch, a server or a database.
"""
