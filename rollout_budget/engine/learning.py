"""What a run learns from groups: once each, when they close, so that no decision about a group has seen the group.

A group's first report calibrates: how many outcomes it holds was fixed before any was drawn. All its outcomes shape the
law of rates, which does not mind that earlier ones asked for later ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rollout_budget.engine.answers import groups_of
from rollout_budget.engine.records import GroupRecord, RunRecord


def learn(run: RunRecord, records: Sequence[GroupRecord], outcomes: Sequence[Sequence[float]]) -> RunRecord:
    """Return the run after these groups, all of whose outcomes are given; itself if there are none."""
    if not records:
        return run
    unknown = [None] * len(records)
    judged = [record.judged for record in records]
    first = [_first(record, seen) for record, seen in zip(records, outcomes, strict=True)]
    reliability = run.reliability.calibrate(groups_of(judged, unknown, first))
    return replace(run, reliability=reliability.learn(groups_of(judged, unknown, outcomes)))


def _first(record: GroupRecord, outcomes: Sequence[float]) -> Sequence[float]:
    """Return the outcomes of the first report; all, where a group closes unreported and within its first wave.

    None of a group that drew more without asking, nor of one that calibrated when it was observed, as those did that
    an earlier release has observed.
    """
    if record.learned:
        return ()
    if record.first_outcomes:
        return record.first_outcomes
    return outcomes if len(outcomes) <= record.first_wave else ()
