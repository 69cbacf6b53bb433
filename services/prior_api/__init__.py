"""The prior service: evidence in, predicted success rates with standard errors out. Unit scale throughout.

endpoints (HTTP) -> service (use cases) -> repository (all SQL), features (encoder behind a cache), heads (mathematics).
Knows nothing of runs, groups and budgets: those are the allocator's.
"""
