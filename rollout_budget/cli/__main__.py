"""`python -m rollout_budget.cli`: the same as `rollout-budget`."""

from __future__ import annotations

import sys

from rollout_budget.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
