"""REST types of the list of a team's runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rollout_budget.wire.common import Count, Wire

RunStatus = Literal["running", "finished"]


class RunSummary(Wire):
    """A run in a list: what `GET /v1/runs/{run_id}` says of it in short."""

    run_id: str
    policy: str
    status: RunStatus
    granted: Count
    used: Count = Field(description="Rollouts drawn: committed + overage.")
    held: Count = Field(description="Rollouts granted and neither drawn nor given back yet.")


class RunsAnswer(Wire):
    """Runs in the order of their ids, by character; `next` is the `after` of the next page, null at the end."""

    runs: list[RunSummary]
    next: str | None = None
