"""Budgets over a whole run: paced prices against fixed ones, and a step's cap shared by worth against an even split."""
