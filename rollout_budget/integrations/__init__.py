"""Budgets in other people's trainers: one package or module for each, on the public session alone.

Nothing here is imported unless asked for, and each needs its trainer installed: `rollout-budget[trl]`, and so on.
`docs/integrations/README.md` has the table of what each trainer can do.
"""
