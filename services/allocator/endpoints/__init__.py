"""The routes, one file per audience: runs and decisions, budgets and usage, administration."""
