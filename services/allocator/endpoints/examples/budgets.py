"""Where the team and its run stand once the first group is closed."""

from __future__ import annotations

from typing import Literal

from rollout_budget.wire import (
    BudgetView,
    EntriesAnswer,
    EntryKind,
    EntryView,
    LimitUse,
    PriorQuality,
    ReservationView,
    RolloutCounts,
    Run,
    RunsAnswer,
    RunSummary,
    UsageAnswer,
    UsageRow,
)
from services.allocator.endpoints.examples.access import TEAM
from services.allocator.endpoints.examples.runs import RUN

DAY = "2026-11-01"
COUNTS = RolloutCounts(granted=9, reserved=4, committed=5, groups_closed=1, saved=11, tokens=640)
SHOWN = Run(
    spec=RUN,
    status="running",
    usage=COUNTS,
    prior=PriorQuality(
        groups=1,
        squared_prior_error=0.07549,
        within_variance=0.1745,
        strength=2.312,
        brier=0.25,
        calibration_error=0.1,
        rejected_share=0.0,
    ),
    price=0.003906,
)
RUNS = RunsAnswer(runs=[RunSummary(run_id=RUN.run_id, policy=RUN.policy, status="running", granted=9, used=5, held=4)])
BUDGET = BudgetView(
    team=TEAM.team,
    limits=TEAM.limits,
    usage=COUNTS,
    available=199_991,
    uses=[LimitUse(level="team", name="rollouts_per_day", used=9.0, limit=200_000.0, share=4.5e-05)],
)
USAGE = UsageAnswer(rows=[UsageRow(run=RUN.run_id, day=DAY, counts=COUNTS)])


def _entry(number: int, kind: EntryKind, group: Literal["step0-p1", "step0-p2"], rollouts: int) -> EntryView:
    return EntryView(
        entry_id=number,
        kind=kind,
        run=RUN.run_id,
        policy=RUN.policy,
        reservation_id=f"{RUN.run_id}/{group}/0/0",
        day=DAY,
        step=None,
        rollouts=rollouts,
        tokens=0,
        seconds=0.0,
    )


ENTRIES = EntriesAnswer(
    entries=[
        _entry(1, "reserve", "step0-p1", 5),
        _entry(2, "reserve", "step0-p2", 4),
        _entry(3, "commit", "step0-p1", 5),
    ],
    next=3,
)
RESERVATION = ReservationView(
    reservation_id=ENTRIES.entries[0].reservation_id, run_id=RUN.run_id, rollouts=5, used=5, state="committed"
)
ALL = (SHOWN, RUNS, BUDGET, USAGE, ENTRIES, RESERVATION)
