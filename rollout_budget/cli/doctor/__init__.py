"""`rollout-budget doctor`: looks at software, services, servers, database and keys, and says what to do. Changes nothing."""

from __future__ import annotations

PRIOR_URL = "ROLLOUT_BUDGET_PRIOR_URL"
PRIOR_KEY = "ROLLOUT_BUDGET_PRIOR_KEY"
"""Where the prior service is, and a key of it, when no option says so."""
