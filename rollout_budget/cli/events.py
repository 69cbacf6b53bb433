"""What commands that go on for a while print with --json: one object a line, told apart by `event`."""

from __future__ import annotations

import sys
from typing import Literal

from rollout_budget.wire.common import Wire


class Ready(Wire):
    """First line of `up`: where everything is. Paths are absolute; without a prior service its fields are null."""

    event: Literal["ready"] = "ready"
    pid: int
    data: str
    allocator_url: str
    dashboard_url: str
    admin_key_file: str
    team_key_file: str
    allocator_log: str
    prior_url: str | None = None
    prior_key_file: str | None = None
    prior_log: str | None = None
    demo_log: str | None = None


class Away(Wire):
    """A look at the service that brought no answer; the next one comes all the same."""

    event: Literal["away"] = "away"
    detail: str


class Said(Wire):
    """A line meant for people."""

    event: Literal["said"] = "said"
    line: str


class Ended(Wire):
    """Last line: why it ended, and for the demo what was drawn."""

    event: Literal["ended"] = "ended"
    reason: str
    steps: int | None = None
    rollouts: dict[str, int] | None = None


def emit(event: Wire) -> None:
    """Print one object on a line of its own, at once."""
    sys.stdout.write(event.model_dump_json() + "\n")
    sys.stdout.flush()
