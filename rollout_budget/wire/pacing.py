"""REST types of pacing: a price that follows what is left of a budget."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rollout_budget.wire.common import MAX_VERSION, Count, Request

PRICED = ("posterior_variance", "osla")
"""Stopping rules whose size of a group depends on the price."""


class PacingSettings(Request):
    """Let the price follow what is left of a budget, so that it lasts for the steps still to come and no longer.

    Steps are told by the `step` of the groups opened, or by their policy version where they name none.
    """

    steps: Annotated[int, Field(ge=1, le=MAX_VERSION, strict=True)] = Field(
        description="Training steps of the run in all, from the first one that opens a group."
    )
    budget: Count | None = Field(
        default=None,
        description="Rollouts of this run to spread over the steps; by default all that is left under every limit "
        "that applies now. Set it where a team's limit is per day or shared with other runs.",
    )


def absent(value: object) -> bool:
    """Leave a setting out of JSON where it is not used: a release that does not know it refuses unknown fields."""
    return value is None


def require_priced(stopping: str) -> None:
    """Raise ValueError where the price decides nothing, so that pacing could not either."""
    if stopping not in PRICED:
        raise ValueError(f"pacing sets a price, and stopping {stopping!r} has none; use one of {', '.join(PRICED)}")
