"""REST types of usage: what was drawn, by whom, when."""

from __future__ import annotations

from typing import Literal

from rollout_budget.wire.common import Wire
from rollout_budget.wire.runs import RolloutCounts

Dimension = Literal["team", "run", "day"]


class UsageRow(Wire):
    """One row of `GET /v1/usage`; a dimension that was not asked for is null."""

    team: str | None = None
    run: str | None = None
    day: str | None = None
    counts: RolloutCounts


class UsageAnswer(Wire):
    """Rows in the order of their dimensions."""

    rows: list[UsageRow]
