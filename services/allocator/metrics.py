"""What the allocator counts, under the names of the project's contract, section 7. One registry per application.

Rollouts are counted from the ledger's entries after their transaction has committed, so that no retry and no rollback
is ever counted. Gauges named `usage_...`, `limit...`, `run_...` and those of what a run has learned (`price`, `prior_...`)
are read from the database in the background: they are the ledger's own figures, the same in every process and after a
restart (take the maximum over processes, not the sum). Teams and runs are labels up to a bound; all further ones share the label `other`. Squared errors are on the unit
scale, but for price and worth, which are on the run's outcome scale.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from rollout_budget.engine.answers import price_in_force
from rollout_budget.engine.records import GroupRecord, RunRecord
from rollout_budget.ledger.books import NOTHING, Counts, Entry
from rollout_budget.ledger.units import seconds
from rollout_budget.wire import BudgetView, Decision, EntryKind
from services.allocator.database.standing import OTHER, Standing
from services.allocator.database.store import SqlTransaction

MAX_RUNS = 200
"""Runs with labels of their own: 70 series each stay well under what one scrape should carry."""
IDLE_S = 3600.0
"""Time without any count after which a run's labels may go to another: long against the pause between two scrapes."""
LEDGER_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""From one statement on a local file to the longest wait for a lock."""

KINDS: Final[dict[EntryKind, str]] = {
    "reserve": "granted",
    "commit": "used",
    "release": "released",
    "expire": "expired",
    "refuse": "refused",
    "overage": "overage",
    "shadow": "shadow_refused",
}
USAGE_KINDS: Final = (
    "granted", "reserved", "committed", "overage", "released", "expired", "refused", "shadow_refused", "extra"
)  # fmt: skip
"""Fields of the ledger's usage that count rollouts."""
_BY_RUN = ("team", "run")
_BY_POLICY = ("team", "run", "policy")


class Labels:
    """Hands out (team, run) labels to `most` pairs at a time.

    A pair that was asked for last, `idle_s` ago or more, makes room for a new one, so that a service that lives long has
    labels for the runs of today. `dropped` is told, and takes its series away.
    """

    def __init__(
        self,
        most: int = MAX_RUNS,
        *,
        idle_s: float = IDLE_S,
        dropped: Callable[[str, str], None] = lambda _team, _run: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._idle_s, self._dropped, self._clock = most, idle_s, dropped, clock
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()

    def of(self, team: str, run: str) -> tuple[str, str]:
        """Return the labels of a run; `other` for both while there are too many."""
        pair, now = (team, run), self._clock()
        if pair not in self._known and len(self._known) >= self._most and not self._made_room(now):
            return (OTHER, OTHER)
        self._known[pair] = now
        self._known.move_to_end(pair)
        return pair

    def _made_room(self, now: float) -> bool:
        oldest, last = next(iter(self._known.items()))
        if now - last < self._idle_s:
            return False
        del self._known[oldest]
        self._dropped(*oldest)
        return True


class Metrics:
    """The counters of one application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._labels = Labels(dropped=self._forget)
        prefix = "rollout_budget_"

        def counter(name: str, text: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(prefix + name, text, labels, registry=registry)

        def gauge(name: str, text: str, labels: Iterable[str] = _BY_RUN) -> Gauge:
            return Gauge(prefix + name, text, labels, registry=registry)

        def summary(name: str, text: str) -> Summary:
            return Summary(prefix + name, text, _BY_RUN, registry=registry)

        self.rollouts = counter("rollouts", "Rollouts by what became of them.", (*_BY_RUN, "kind"))
        self.extra = counter("rollouts_extra", "Rollouts granted after the first wave of their group.", _BY_RUN)
        self.saved = gauge("rollouts_saved", "Reference group size of closed groups less what they drew.")
        self.groups = counter("groups_closed", "Groups closed.", _BY_RUN)
        self.opened = counter("groups_opened", "Groups opened, repeats not counted.", _BY_RUN)
        self.extended = counter("groups_extended", "Groups closed that were granted more than a first wave.", _BY_RUN)
        self.undecided = counter(
            "groups_undecided",
            "Groups closed with rollouts and without any decision of this service: a trainer's fallback drew them.",
            _BY_RUN,
        )
        self.stops = counter("group_stops", "Groups closed, by the reason of their last decision.", ("reason",))
        self.prior_weight = summary(
            "prior_weight", "Weight of the prior in the last baseline of closed groups, 0 to 1."
        )
        self.last_worth = summary(
            "last_rollout_worth",
            "Squared error, outcome scale, that the last rollout of a closed group took off its baseline.",
        )
        self.replays = counter("idempotent_replays", "Groups answered from what was stored.")
        self.degraded = counter("degraded_groups", "Groups opened without the prior service's full answer.")
        self.degraded_plans = counter("degraded_plans", "Plans made without the prior service's full answer.")
        self.evidence_refused = counter("evidence_refused", "Evidence rows that the prior service refused for good.")
        self.violations = counter("invariant_violations", "Counters found to differ from their entries.")
        self._wall = gauge("second_wall_up", "1 where PostgreSQL keeps teams apart by itself too (G14).", ())
        self.limit = gauge("limit_rollouts", "A team's limit in all.", ("team",))
        self.in_use = gauge("in_use_rollouts", "What counts against a team's limit.", ("team", "state"))
        self.limits = gauge("limit", "A team's limit, in the unit of its name.", ("team", "limit"))
        self.used = gauge("limit_used", "What counts against a team's limit, in the same unit.", ("team", "limit"))
        self.share = gauge("limit_used_ratio", "The share of a team's limit that is used or held.", ("team", "limit"))
        self._standing = Ledger(registry)
        self._decisions = self._histogram("decision_duration_seconds", "Time of a decision call.", "call")
        self._ledger = self._histogram("ledger_duration_seconds", "Time of a ledger operation.", "operation")
        self._waits = self._histogram(
            "ledger_wait_seconds", "Wait for the database: for a transaction, for a run's lock, for a team's.", "lock"
        )

    def decided(self, call: str, seconds: float) -> None:
        """Count one call of the decision routes."""
        self._decisions.labels(call).observe(seconds)

    def committed(self, transaction: SqlTransaction) -> None:
        """Count what a transaction did, now that it has committed."""
        self.replays.inc(transaction.replays)
        self.degraded.inc(transaction.opened_degraded)
        for operation, took_s in transaction.ledger.timings:
            self._ledger.labels(operation).observe(took_s)
        for lock, took_s in (*transaction.waits, *transaction.ledger.waits):
            self._waits.labels(lock).observe(took_s)
        for team, run, count in transaction.opened:
            self._opened(count, self._labels.of(team, run))
        for team, run, group in transaction.closed:
            self._closed(group, self._labels.of(team, run))
        for entry in transaction.ledger.record:
            self.booked(entry)

    def booked(self, entry: Entry) -> None:
        """Count one entry of the ledger."""
        labels = self._labels.of(entry.account.team, entry.account.run)
        if entry.kind == "close":
            self.groups.labels(*labels).inc(entry.reference > 0)
            self.saved.labels(*labels).inc(entry.reference)
            return
        self.rollouts.labels(*labels, KINDS[entry.kind]).inc(entry.rollouts)
        if entry.kind in ("commit", "overage"):
            self.saved.labels(*labels).dec(entry.rollouts)
        if entry.extra:
            self.extra.labels(*labels).inc(entry.rollouts)

    def budgets(self, views: Iterable[BudgetView]) -> None:
        """Set limits and use of these teams, `MAX_RUNS` at most; all others are shown no more."""
        for gauge in (self.limit, self.in_use, self.limits, self.used, self.share):
            gauge.clear()
        for view in views:
            team = view.team
            if view.limits.rollouts is not None:
                self.limit.labels(team).set(view.limits.rollouts)
            for state in ("reserved", "committed", "overage"):
                self.in_use.labels(team, state).set(getattr(view.usage, state))
            for use in view.uses:
                self.limits.labels(team, use.name).set(use.limit)
                self.used.labels(team, use.name).set(use.used)
                self.share.labels(team, use.name).set(use.share)

    def standing(self, found: Standing) -> None:
        """Set what the ledger has booked, run by run, in place of what was shown before."""
        self._standing.show(found)

    def second_wall(self, stands: bool) -> None:  # noqa: FBT001  what it is called back with
        """Set whether the database keeps teams apart by itself too."""
        self._wall.set(stands)

    def _histogram(self, name: str, text: str, label: str) -> Histogram:
        return Histogram(f"rollout_budget_{name}", text, (label,), registry=self.registry, buckets=LEDGER_BUCKETS_S)

    def _forget(self, team: str, run: str) -> None:
        """Take away the series of a run."""
        of_run: tuple[Counter | Gauge | Summary, ...] = (
            self.extra, self.saved, self.groups, self.opened, self.extended, self.undecided, self.prior_weight,
            self.last_worth,
        )  # fmt: skip
        for metric in of_run:
            metric.remove(team, run)
        for kind in KINDS.values():
            self.rollouts.remove(team, run, kind)

    def _opened(self, count: int, labels: tuple[str, str]) -> None:
        """Count groups opened; what they may come to begins at 0, as a rate does not see what a series begins with."""
        for later in (self.groups, self.extended, self.undecided, self.extra):
            later.labels(*labels)
        self.opened.labels(*labels).inc(count)

    def _closed(self, group: GroupRecord, labels: tuple[str, str]) -> None:
        """Count a group that was closed now."""
        decision, closed = group.decision, group.closed
        self.extended.labels(*labels).inc(sum(grant > 0 for grant in group.grants) > 1)
        if decision is None:
            self.undecided.labels(*labels).inc(closed is not None and closed.committed + closed.overage > 0)
            return
        self.stops.labels(decision.reason).inc()
        self.prior_weight.labels(*labels).observe(1.0 - decision.weight)
        worth = worth_of_last(decision)
        if worth is not None:
            self.last_worth.labels(*labels).observe(worth)


class Ledger:
    """The gauges that are read from the ledger (`database.standing`)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, labels: Iterable[str] = _BY_POLICY) -> Gauge:
            return Gauge(f"rollout_budget_{name}", text, labels, registry=registry)

        self._rollouts = gauge("usage_rollouts", "Rollouts booked, as in `GET /v1/usage`.", (*_BY_POLICY, "kind"))
        self._saved = gauge("usage_saved_rollouts", "Reference group size of closed groups less what they drew.")
        self._groups = gauge("usage_groups_closed", "Groups closed.")
        self._tokens = gauge("usage_tokens", "Tokens reported.")
        self._seconds = gauge("usage_gpu_seconds", "GPU-seconds reported.")
        self._info = gauge("run_info", "1 for each run and policy shown.", (*_BY_POLICY, "estimator", "stopping"))
        self._limit = gauge("run_limit", "A run's limit, in the unit of its name.", (*_BY_RUN, "limit"))
        self._used = gauge("run_limit_used", "What counts against it, in the same unit.", (*_BY_RUN, "limit"))
        self._learned = Learned(registry)
        self._waiting = gauge("evidence_waiting_rows", "Evidence that the prior service was not told yet.", ())
        self._read = gauge("ledger_read_timestamp_seconds", "When these figures were read, since 1970.", ())

    def show(self, found: Standing) -> None:
        """Set all of them; what is no longer there is shown no more."""
        for gauge in (self._rollouts, self._saved, self._groups, self._tokens, self._seconds):
            gauge.clear()
        for gauge in (self._info, self._limit, self._used):
            gauge.clear()
        for labels, counts in _bounded(found).items():
            self._booked(labels, counts)
            record = found.records.get(labels[:2])
            rules = ("", "") if record is None else (record.spec.estimator, record.spec.stopping)
            self._info.labels(*labels, *rules).set(1)
        for one in found.limits:
            self._limit.labels(*one.place, one.name).set(one.limit)
            self._used.labels(*one.place, one.name).set(one.used)
        self._learned.show(found.records.values())
        self._waiting.set(found.evidence_waiting)
        self._read.set(time.time())

    def _booked(self, labels: tuple[str, str, str], counts: Counts) -> None:
        view = counts.view()
        for kind in USAGE_KINDS:
            self._rollouts.labels(*labels, kind).set(getattr(view, kind))
        self._saved.labels(*labels).set(view.saved)
        self._groups.labels(*labels).set(view.groups_closed)
        self._tokens.labels(*labels).set(counts.tokens)
        self._seconds.labels(*labels).set(seconds(counts.milliseconds))


class Learned:
    """The gauges of what runs have learned of their priors, and of the price that they pay by it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"rollout_budget_{name}", text, _BY_RUN, registry=registry)

        self._price = gauge("price", "Price in force: marginal cost of a rollout, squared error on the outcome scale.")
        self._squared_error = gauge("prior_squared_error", "Pooled squared error of a run's priors.")
        self._explained_variance = gauge("prior_explained_variance", "Variance of outcomes that priors explain.")
        self._strength = gauge("prior_strength_rollouts", "Pseudo-rollouts that a prior counts for (m).")
        self._rejected = gauge("prior_rejected_ratio", "Share of groups whose prior was not trusted.")
        self._calibration = gauge("prior_calibration_error", "Expected calibration error of a run's priors.")

    def show(self, records: Iterable[RunRecord]) -> None:
        """Set them for these runs, and for no others; what a run does not know yet is not shown."""
        for gauge in (self._price, self._squared_error, self._explained_variance):
            gauge.clear()
        for gauge in (self._strength, self._rejected, self._calibration):
            gauge.clear()
        for record in records:
            learned = record.reliability
            figures = {
                self._price: price_in_force(record),
                self._squared_error: learned.squared_prior_error,
                self._explained_variance: learned.explained_variance,
                self._strength: learned.strength,
                self._rejected: learned.rejected_share,
                self._calibration: learned.calibration_error,
            }
            for gauge, value in figures.items():
                if value is not None:
                    gauge.labels(record.team, record.spec.run_id).set(value)


def _bounded(found: Standing) -> dict[tuple[str, str, str], Counts]:
    """Return lines by label: teams that have only `other` runs share one line once there are many of them."""
    lines: dict[tuple[str, str, str], Counts] = {}
    for line in sorted(found.lines, key=lambda line: (line.run == OTHER, line.team)):
        rest = line.run == OTHER and len(lines) >= 2 * MAX_RUNS
        labels = (OTHER if rest else line.team, line.run, line.policy)
        lines[labels] = lines.get(labels, NOTHING).plus(line.counts)
    return lines


def worth_of_last(decision: Decision) -> float | None:
    """Return the squared error that a group's last rollout took off its baseline, outcome scale; None where unknown.

    A baseline of m pseudo-rollouts and k rollouts has the squared error e^2 = c / (m + k); one rollout fewer,
    c / (m + k - 1). The difference is e^2 / (m + k - 1): what is compared with the price.
    """
    seen = decision.ingredients
    before = seen.strength + seen.k - 1
    if seen.standard_error is None or seen.k < 1 or before <= 0.0:
        return None
    return seen.standard_error**2 / before
