"""What budgets and runs look like now, by the ledger's own answers, and how fast they move between two looks.

Owns which questions are asked; how the answers look on a terminal is `screen`'s. With an admin key all teams are seen, with
a team's key that team.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Literal, Self

from rollout_budget.client import Retries, SyncAdminClient, SyncAllocatorClient
from rollout_budget.errors import Unauthorized
from rollout_budget.wire import BudgetView, LimitUse, RolloutCounts, UsageAnswer, UsageQuery, UsageRow
from rollout_budget.wire.access import MAX_PAGE
from rollout_budget.wire.common import Wire
from rollout_budget.wire.usage import MAX_USAGE_ROWS

Scope = Literal["admin", "team"]
TIMEOUT_S = 2.0
"""Longest wait for one answer: keys are not read meanwhile."""
ONCE = Retries(attempts=1)
"""A look that fails is not repeated: the next one follows by itself."""
MAX_TEAMS = 24
"""Teams whose limits are asked for, a request each: the busiest, as many as a screen shows."""


class Motion(Wire):
    """What was counted so far, and its speed since the last look (null at the first).

    `mean_group` is rollouts drawn per closed group, `extra_share` the share of grants that came after first waves.
    """

    used: int
    held: int
    granted: int
    refused: int
    saved: int
    groups: int
    mean_group: float | None
    extra_share: float | None
    rollouts_per_s: float | None
    groups_per_s: float | None


class TeamNow(Motion):
    """A team; `available` null is no limit. `nearest` is the limit that is nearest to its end, null without limits."""

    team: str
    available: int | None
    nearest: LimitUse | None


class RunNow(Motion):
    """A run; `policy` is the one that it drew most with."""

    team: str
    run: str
    policy: str


class Snapshot(Wire):
    """Everything at one moment. Teams beyond `MAX_TEAMS` are in the totals and in `runs`, not in `teams`."""

    event: Literal["snapshot"] = "snapshot"
    at: datetime
    url: str
    scope: Scope
    totals: Motion
    teams: list[TeamNow]
    runs: list[RunNow]
    teams_left_out: int = 0


class Sampler:
    """Looks at a service again and again. Closes its connections at the end of `with`.

    Raises (in `look`):
        Unauthorized: the key opens neither the admin's nor a team's routes.
        ServiceError: no answer.
    """

    def __init__(self, url: str, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._admin = SyncAdminClient(url, key, timeout=TIMEOUT_S, retries=ONCE)
        self._team = SyncAllocatorClient(url, key, timeout=TIMEOUT_S, retries=ONCE)
        self._clock = clock
        self._scope: Scope | None = None
        self._before: dict[tuple[str, ...], tuple[int, int]] = {}
        self._looked: float | None = None
        self._left_out = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._admin.disconnect()
        self._team.disconnect()

    def look(self) -> Snapshot:
        """Ask the service; speeds are since the last look that was answered."""
        scope = self._scope or self._find_scope()
        budgets, rows = self._of_all() if scope == "admin" else self._of_one()
        now = self._clock()
        passed = None if self._looked is None else max(now - self._looked, 1e-6)
        counts = _Counting(self._before, passed)
        shown = sorted(budgets, key=lambda one: -one.usage.granted)
        snapshot = Snapshot(
            at=datetime.now(UTC),
            url=self._url,
            scope=scope,
            totals=Motion(**counts.motion((), [row.counts for row in rows])),
            teams=[_team(counts, view) for view in shown],
            runs=[_run(counts, list(same)) for _, same in groupby(sorted(rows, key=_place), _place)],
            teams_left_out=self._left_out,
        )
        self._before, self._looked, self._scope = counts.now, now, scope
        return snapshot

    def _find_scope(self) -> Scope:
        try:
            self._admin.list_teams(limit=1)
        except Unauthorized:
            return "team"
        return "admin"

    def _of_one(self) -> tuple[list[BudgetView], list[UsageRow]]:
        view = self._team.budget()
        rows = list(_paged(lambda query: self._team.usage(("run", "policy"), query)))
        return [view], [row.model_copy(update={"team": view.team}) for row in rows]

    def _of_all(self) -> tuple[list[BudgetView], list[UsageRow]]:
        rows = list(_paged(lambda query: self._admin.show_usage(None, ("team", "run", "policy"), query)))
        page = self._admin.list_teams(limit=MAX_PAGE)
        teams = [one.team for one in page.teams]
        while page.next is not None:
            page = self._admin.list_teams(after=page.next, limit=MAX_PAGE)
            teams += [one.team for one in page.teams]
        drawn = dict.fromkeys(teams, 0)
        for row in rows:
            drawn[str(row.team)] = drawn.get(str(row.team), 0) + row.counts.granted
        busiest = sorted(drawn, key=lambda team: (-drawn[team], team))[:MAX_TEAMS]
        self._left_out = len(drawn) - len(busiest)
        return [self._admin.show_budget(team) for team in busiest], rows


class _Counting:
    """Turns counts into motion against what was counted at the last look."""

    def __init__(self, before: dict[tuple[str, ...], tuple[int, int]], passed_s: float | None) -> None:
        self._before = before
        self._passed_s = passed_s
        self.now: dict[tuple[str, ...], tuple[int, int]] = {}

    def motion(self, place: tuple[str, ...], counts: Sequence[RolloutCounts]) -> dict[str, int | float | None]:
        """Return the fields of `Motion` for the sum of some counts; `place` names them from look to look."""
        granted, extra, groups = (
            sum(getattr(one, name) for one in counts) for name in ("granted", "extra", "groups_closed")
        )
        used = sum(one.committed + one.overage for one in counts)
        self.now[place] = used, groups
        was_used, was_groups = self._before.get(place, (0, 0))
        return {
            "used": used,
            "held": sum(one.reserved for one in counts),
            "granted": granted,
            "refused": sum(one.refused for one in counts),
            "saved": sum(one.saved for one in counts),
            "groups": groups,
            "mean_group": used / groups if groups else None,
            "extra_share": extra / granted if granted else None,
            "rollouts_per_s": None if self._passed_s is None else (used - was_used) / self._passed_s,
            "groups_per_s": None if self._passed_s is None else (groups - was_groups) / self._passed_s,
        }


def _team(counts: _Counting, view: BudgetView) -> TeamNow:
    nearest = max(view.uses, key=lambda use: use.share, default=None)
    motion = counts.motion((view.team,), [view.usage])
    return TeamNow(team=view.team, available=view.available, nearest=nearest, **motion)


def _run(counts: _Counting, rows: Sequence[UsageRow]) -> RunNow:
    team, run = _place(rows[0])
    most = max(rows, key=lambda row: row.used)
    return RunNow(
        team=team, run=run, policy=most.policy or "", **counts.motion((team, run), [row.counts for row in rows])
    )


def _place(row: UsageRow) -> tuple[str, str]:
    return row.team or "", row.run or ""


def _paged(ask: Callable[[UsageQuery], UsageAnswer]) -> Iterator[UsageRow]:
    after: str | None = None
    while True:
        answer = ask(UsageQuery(after=after, limit=MAX_USAGE_ROWS))
        yield from answer.rows
        after = answer.next
        if after is None:
            return
