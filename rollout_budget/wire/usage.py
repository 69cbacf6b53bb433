"""REST types of usage: what was drawn, by whom, when."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, computed_field, model_validator

from rollout_budget.wire.common import Identifier, NonNegative, Request, Wire
from rollout_budget.wire.counts import RolloutCounts

MAX_USAGE_ROWS = 10_000
"""Rows of one page: some 5 MB of JSON."""
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
EntryKind = Literal["reserve", "commit", "release", "expire", "refuse", "overage", "close", "shadow"]

Dimension = Literal["team", "run", "policy", "day"]


def _written_as_a_day(value: object) -> object:
    """Let through days alone: left to itself the type takes times and seconds since 1970 as well."""
    if isinstance(value, str) and not _DAY.fullmatch(value):
        raise ValueError("a day is written like 2026-11-01")
    return value


Day = Annotated[date, BeforeValidator(_written_as_a_day)]


class UsageQuery(Request):
    """Which rows of usage are wanted. Days are UTC, first and last included."""

    run: Identifier | None = Field(default=None, description="This run alone.")
    policy: Identifier | None = Field(default=None, description="This policy alone.")
    since: Day | None = Field(default=None, description="First day, as `2026-11-01`.")
    until: Day | None = Field(default=None, description="Last day.")
    after: Annotated[str, Field(max_length=4_000)] | None = Field(
        default=None, description="`next` of the page before."
    )
    limit: Annotated[int, Field(ge=1, le=MAX_USAGE_ROWS)] = Field(default=1_000, description="Rows of a page.")

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if self.since is not None and self.until is not None and self.since > self.until:
            raise ValueError("since comes after until")
        return self


class UsageRow(Wire):
    """One row of `GET /v1/usage`; a dimension that was not asked for is null."""

    team: str | None = None
    run: str | None = None
    policy: str | None = None
    day: str | None = None
    counts: RolloutCounts

    @computed_field(description="Rollouts drawn: committed + overage.")  # type: ignore[prop-decorator]  # pydantic's way
    @property
    def used(self) -> int:
        """Rollouts drawn: within their grants and beyond."""
        return self.counts.committed + self.counts.overage

    @computed_field(description="Rollouts granted and not drawn: released + expired.")  # type: ignore[prop-decorator]  # likewise
    @property
    def returned(self) -> int:
        """Rollouts granted and not drawn."""
        return self.counts.released + self.counts.expired

    @computed_field(description="Mean of what was reported; null where no tokens were.")  # type: ignore[prop-decorator]  # likewise
    @property
    def tokens_per_rollout(self) -> float | None:
        """Tokens reported per rollout drawn."""
        return self.counts.tokens / self.used if self.used and self.counts.tokens else None

    @computed_field(description="Mean of what was reported; null where no time was.")  # type: ignore[prop-decorator]  # likewise
    @property
    def gpu_seconds_per_rollout(self) -> float | None:
        """GPU-seconds reported per rollout drawn."""
        return self.counts.seconds / self.used if self.used and self.counts.seconds else None


class UsageAnswer(Wire):
    """Rows in the order of their dimensions; `next` is the `after` of the next page, null at the end."""

    rows: list[UsageRow]
    next: str | None = None


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
