"""REST types of usage: what was drawn, by whom, when."""

from __future__ import annotations

from typing import Literal

from rollout_budget.wire.common import NonNegative, Wire
from rollout_budget.wire.counts import RolloutCounts

EntryKind = Literal["reserve", "commit", "release", "expire", "refuse", "overage", "close", "shadow"]

Dimension = Literal["team", "run", "policy", "day"]


class UsageRow(Wire):
    """One row of `GET /v1/usage`; a dimension that was not asked for is null."""

    team: str | None = None
    run: str | None = None
    policy: str | None = None
    day: str | None = None
    counts: RolloutCounts


class UsageAnswer(Wire):
    """Rows in the order of their dimensions."""

    rows: list[UsageRow]


class EntryView(Wire):
    """One line of the ledger's append-only record; `entry_id` grows with every line of a team.

    Rollouts of a `reserve` or `refuse` were asked for, of a `commit` or `overage` drawn. Tokens and seconds are used.
    """

    entry_id: int
    kind: EntryKind
    run: str
    policy: str
    reservation_id: str
    day: str
    step: int | None
    rollouts: int
    tokens: int
    seconds: NonNegative


class EntriesAnswer(Wire):
    """`GET /v1/entries`: lines in the order in which they were written; `next` is the `after` of the next page."""

    entries: list[EntryView]
    next: int | None
