"""From what was read to what the page says: words, shares and shapes, ready for the templates. Pure.

Every figure is a string with its unit here; templates choose places, not wordings. User-chosen names pass through as they
are, and are escaped by the templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rollout_budget.engine.answers import run_answer
from rollout_budget.engine.records import GroupRecord
from rollout_budget.ledger.limits import NAMES
from rollout_budget.ledger.units import seconds
from rollout_budget.wire import LimitUse, Run
from services.allocator.dashboard import charts, words
from services.allocator.dashboard.forecast import Forecast, Rate, forecast, rate
from services.allocator.dashboard.reading import Account, ClosedOf, Moved, Picture, RunUse

LATEST_GROUPS = 8
"""Decisions listed one by one: those of one small step."""
UNITS = {"rollouts": "rollouts", "tokens": "tokens", "gpu_seconds": "GPU time"}
WINDOWS = {"": "in all", "day": "today", "month": "this month"}
MOVES = {
    "reserve": "granted",
    "commit": "used",
    "release": "given back",
    "expire": "lease ended",
    "refuse": "refused",
    "overage": "overage",
    "close": "closed",
    "shadow": "would be refused",
}


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit as a bar: shares in per cent of the bar's width, `state` one of ok, near, full."""

    title: str
    used: str
    held: str
    left: str
    limit: str
    share: str
    used_width: float
    held_width: float
    warn_at: float
    state: str
    forecast: str


@dataclass(frozen=True, slots=True)
class Budget:
    """A team's card."""

    team: str
    shadow: bool
    stopped: bool
    used: bool
    limits: list[Limit]
    facts: list[tuple[str, str]]
    rate: str
    hour: charts.Chart
    day: charts.Chart | None
    cut: bool


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run in the table of runs, and in that of decisions."""

    team: str
    run: str
    policy: str
    finished: bool
    used: str
    held: str
    limit: str
    limit_width: float
    shadow: bool
    refused: str
    returned: str
    saved: str
    saved_share: str
    mean_group: str
    price: str
    paced: bool
    groups: str
    extended: str
    prior_weight: str
    undecided: str
    rejected: str
    explained: str
    fallback: str


@dataclass(frozen=True, slots=True)
class GroupLine:
    """A closed group."""

    team: str
    run: str
    group: str
    drawn: str
    mean: str
    prior: str
    baseline: str
    weight: str
    weight_width: float
    reason: str


@dataclass(frozen=True, slots=True)
class EntryLine:
    """A line of the ledger."""

    team: str
    at: str
    iso: str
    kind: str
    what: str
    rollouts: str
    run: str
    reservation: str


@dataclass(frozen=True, slots=True)
class Fact:
    """One line on the state of the service; `state` is ok, bad or plain."""

    name: str
    value: str
    detail: str
    state: str = "plain"


@dataclass(frozen=True, slots=True)
class Board:
    """Everything between the header and the footer."""

    at: str
    iso: str
    service: list[Fact]
    budgets: list[Budget]
    runs: list[RunLine]
    run_counts: str
    more_runs: int
    sampled: bool
    groups: list[GroupLine]
    entries: list[EntryLine]


@dataclass(frozen=True, slots=True)
class Counters:
    """What this process has counted since it started, of all teams, and whether a prior service is set.

    `violations` is 0 for whoever sees one team: the accounts of that team which are stopped say it all.
    """

    violations: int
    waiting: int
    has_prior_service: bool


def board(picture: Picture, counters: Counters) -> Board:
    """Return the page of what was read."""
    runs = [_run(use, [one for one in picture.closed if one.place == use.place]) for use in picture.runs]
    return Board(
        at=words.clock(picture.now),
        iso=datetime.fromtimestamp(picture.now, UTC).isoformat(timespec="seconds"),
        service=_service(picture, counters),
        budgets=sorted((_budget(account, picture.now) for account in picture.accounts), key=lambda one: not one.used),
        runs=runs,
        run_counts=f"{words.count(picture.running)} running, {words.count(picture.finished)} finished",
        more_runs=picture.running + picture.finished - len(runs),
        sampled=bool(picture.closed),
        groups=[_group(one) for one in picture.closed[:LATEST_GROUPS]],
        entries=[_entry(line) for line in picture.moved],
    )


def _service(picture: Picture, counters: Counters) -> list[Fact]:
    stopped = sum(account.stopped for account in picture.accounts)
    found = max(stopped, counters.violations)
    books = f"{words.count(found)} counters differ" if found else "agrees with its record"
    late = [one for one in picture.closed if one.record.degraded]
    known = len(picture.closed)
    if not counters.has_prior_service:
        prior = Fact("Prior", "own history", "no prior service is set; prompts' past outcomes serve")
    elif late:
        detail = f"{len(late)} of the last {known} groups shown had to do without its full answer"
        prior = Fact("Prior", "degraded", detail, "bad")
    else:
        said = f"all of the last {known} groups shown had its answer" if known else "no group was closed yet"
        prior = Fact("Prior", "prior service", said, "ok" if known else "plain")
    return [
        Fact("Ledger", books, "counters are checked against every entry", "bad" if found else "ok"),
        prior,
        Fact("Evidence waiting", words.count(picture.evidence_waiting), "rows on their way to the prior"),
        Fact("Requests waiting", words.count(counters.waiting), "at this process, for their turn"),
    ]


def _budget(account: Account, now: float) -> Budget:
    view, use = account.budget, account.budget.usage
    pace = rate(account.spent, now)
    facts = [
        ("Rollouts used", words.count(use.committed + use.overage)),
        ("Refused", words.count(use.refused)),
        ("Given back", words.count(use.released + use.expired)),
        ("Tokens", words.short(use.tokens)),
        ("GPU time", words.hours(use.seconds)),
    ]
    if use.shadow_refused or view.limits.mode == "shadow":
        facts.insert(2, ("Shadow would refuse", words.count(use.shadow_refused)))
    if use.overage:
        facts.insert(1, ("Overage", words.count(use.overage)))
    return Budget(
        team=view.team,
        shadow=view.limits.mode == "shadow",
        stopped=account.stopped > 0,
        used=use.granted + use.refused + use.overage > 0,
        limits=[_limit(one, account, pace, now) for one in view.uses],
        facts=facts,
        rate=_rate(pace),
        hour=charts.hour(account.spent, now),
        day=charts.day(account.spent, now) if charts.has_more_than_an_hour(account.spent, now) else None,
        cut=account.spent.cut,
    )


def _limit(one: LimitUse, account: Account, pace: Rate, now: float) -> Limit:
    unit, _, window = one.name.partition("_per_")
    held = min(one.used, _held(one, account))
    left = one.limit - one.used
    write = words.hours if unit == "gpu_seconds" else words.count if unit == "rollouts" else words.short
    scale = max(one.limit, one.used) or 1.0
    near = one.share >= account.budget.limits.warn_at
    return Limit(
        title=f"{UNITS[unit]} {WINDOWS[window]}".capitalize().replace("Gpu", "GPU"),
        used=write(one.used - held),
        held=write(held),
        left=write(left),
        limit=write(one.limit),
        share=words.percent(one.share),
        used_width=round(100 * (one.used - held) / scale, 2),
        held_width=round(100 * held / scale, 2),
        warn_at=round(100 * account.budget.limits.warn_at * one.limit / scale, 2),
        state="full" if left <= 0 else "near" if near else "ok",
        forecast=_ends(forecast(one.name, left, pace, now), account.budget.limits.mode == "shadow", now),
    )


def _held(one: LimitUse, account: Account) -> float:
    """Return what is held under a limit, in its unit."""
    for window, names in NAMES.items():
        if one.name in names and window in account.held:
            place = names.index(one.name)
            held = account.held[window][place]
            return seconds(held) if place == 2 else float(held)
    return 0.0


def _ends(found: Forecast, shadow: bool, now: float) -> str:  # noqa: FBT001  one of two modes
    again = "" if found.renews_s is None else f", renews in {words.span(found.renews_s)}"
    if found.after_s == 0.0:
        return ("reached; shadow mode refuses nothing" if shadow else "used up: new grants are refused") + again
    if found.after_s is not None:
        return f"runs out in about {words.span(found.after_s)}, at {words.moment(now + found.after_s, now)}"
    return "no end in sight at this rate" if found.renews_s is None else f"lasts{again}"


def _rate(pace: Rate) -> str:
    if not pace.rollouts:
        return "nothing was drawn in the last hour"
    per_hour = words.short(pace.rollouts * 3_600)
    return f"{per_hour} rollouts an hour, as in the last {words.span(pace.over_s)}"


def _run(use: RunUse, closed: Sequence[ClosedOf]) -> RunLine:
    run: Run = run_answer(use.record, use.counts.view())
    spec, counts = run.spec, run.usage
    used, cap = counts.committed + counts.overage, spec.limits.rollouts
    records = [one.record for one in closed]
    weights = [1.0 - record.decision.weight for record in records if record.decision is not None]
    extended = [record for record in records if sum(grant > 0 for grant in record.grants) > 1]
    return RunLine(
        team=use.record.team,
        run=spec.run_id,
        policy=spec.policy,
        finished=run.status == "finished",
        used=words.count(used),
        held=words.count(counts.reserved),
        limit="" if cap is None else words.count(cap),
        limit_width=0.0 if cap is None else round(min(100.0, 100 * (used + counts.reserved) / (cap or 1)), 2),
        shadow=spec.limits.mode == "shadow",
        refused=words.count(counts.refused),
        returned=words.count(counts.released + counts.expired),
        saved=words.count(counts.saved) if counts.groups_closed else words.NONE,
        saved_share=words.share(counts.saved, counts.saved + used) if counts.groups_closed else "",
        mean_group=f"{used / counts.groups_closed:.1f}" if counts.groups_closed else words.NONE,
        price=words.figure(run.price),
        paced=spec.pacing is not None and spec.price is None,
        groups=words.count(len(records)),
        extended=words.share(len(extended), len(records)),
        prior_weight=words.percent(sum(weights) / len(weights)) if weights else words.NONE,
        undecided="" if len(weights) == len(records) else words.count(len(records) - len(weights)),
        rejected=words.percent(run.prior.rejected_share),
        explained=words.percent(run.prior.explained_variance),
        fallback=words.share(sum(bool(record.degraded) for record in records), len(records)),
    )


def _group(one: ClosedOf) -> GroupLine:
    record: GroupRecord = one.record
    decision = record.decision
    closed = record.closed
    drawn = 0 if closed is None else closed.committed + closed.overage
    prior_weight = None if decision is None else 1.0 - decision.weight
    return GroupLine(
        team=one.place.team,
        run=one.place.run,
        group=record.key.group_id,
        drawn=words.count(drawn),
        mean=words.NONE
        if decision is None or decision.ingredients.mean is None
        else f"{decision.ingredients.mean:.2f}",
        prior=f"{record.opened.prior:.2f}",
        baseline=words.NONE if decision is None else f"{decision.baseline:.2f}",
        weight=words.percent(prior_weight),
        weight_width=0.0 if prior_weight is None else round(100 * prior_weight, 1),
        reason="not decided here" if decision is None else decision.reason.replace("_", " "),
    )


def _entry(line: Moved) -> EntryLine:
    entry = line.entry
    tokens = f", {words.short(entry.tokens)} tokens" if entry.tokens else ""
    return EntryLine(
        team=line.team,
        at=words.clock(line.at_s),
        iso=datetime.fromtimestamp(line.at_s, UTC).isoformat(timespec="seconds"),
        kind=entry.kind,
        what=MOVES[entry.kind],
        rollouts=words.count(entry.rollouts) + tokens,
        run=entry.run,
        reservation=entry.reservation_id.partition("/")[2] or words.NONE,
    )
