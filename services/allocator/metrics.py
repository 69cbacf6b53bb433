"""What the allocator counts, under the names of the project's contract, section 7. One registry per application.

Rollouts are counted from the ledger's entries after their transaction has committed, so that no retry and no rollback
is ever counted. Teams and runs are labels up to a bound; all further ones share the label `other`. Squared errors are
on the unit scale.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rollout_budget.engine.answers import price_in_force
from rollout_budget.engine.records import RunRecord
from rollout_budget.ledger.books import Entry
from rollout_budget.wire import BudgetView, EntryKind
from services.allocator.database.store import SqlTransaction

MAX_RUNS = 200
"""Runs with labels of their own: 25 series each stay well under what one scrape should carry."""
OTHER = "other"
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
_BY_RUN = ("team", "run")


class Labels:
    """Hands out (team, run) labels; the first `most` pairs get their own."""

    def __init__(self, most: int = MAX_RUNS) -> None:
        self._most = most
        self._known: set[tuple[str, str]] = set()

    def of(self, team: str, run: str) -> tuple[str, str]:
        """Return the labels of a run; `other` for both once there are too many."""
        pair = (team, run)
        if pair in self._known:
            return pair
        if len(self._known) >= self._most:
            return (OTHER, OTHER)
        self._known.add(pair)
        return pair


class Metrics:
    """The counters of one application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._labels = Labels()
        self._teams = Labels()
        prefix = "rollout_budget_"

        def counter(name: str, text: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(prefix + name, text, labels, registry=registry)

        def gauge(name: str, text: str, labels: Iterable[str] = _BY_RUN) -> Gauge:
            return Gauge(prefix + name, text, labels, registry=registry)

        self.rollouts = counter("rollouts", "Rollouts by what became of them.", (*_BY_RUN, "kind"))
        self.extra = counter("rollouts_extra", "Rollouts granted after the first wave of their group.", _BY_RUN)
        self.saved = gauge("rollouts_saved", "Reference group size of closed groups less what they drew.")
        self.groups = counter("groups_closed", "Groups closed.", _BY_RUN)
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
        self.price = gauge("price", "Price in force: marginal cost of a rollout, squared error on the outcome scale.")
        self.squared_error = gauge("prior_squared_error", "Pooled squared error of a run's priors.")
        self.explained_variance = gauge("prior_explained_variance", "Variance of outcomes that priors explain.")
        self.strength = gauge("prior_strength_rollouts", "Pseudo-rollouts that a prior counts for (m).")
        self.rejected = gauge("prior_rejected_ratio", "Share of groups whose prior was not trusted.")
        self.calibration = gauge("prior_calibration_error", "Expected calibration error of a run's priors.")
        self._decisions = self._histogram("decision_duration_seconds", "Time of a decision call.", "call")
        self._ledger = self._histogram("ledger_duration_seconds", "Time of a ledger operation.", "operation")

    def decided(self, call: str, seconds: float) -> None:
        """Count one call of the decision routes."""
        self._decisions.labels(call).observe(seconds)

    def committed(self, transaction: SqlTransaction) -> None:
        """Count what a transaction did, now that it has committed."""
        self.replays.inc(transaction.replays)
        self.degraded.inc(transaction.opened_degraded)
        for operation, seconds in transaction.ledger.timings:
            self._ledger.labels(operation).observe(seconds)
        for entry in transaction.ledger.record:
            self.booked(entry)
        for record in transaction.saved_runs:
            self._learned(record)

    def booked(self, entry: Entry) -> None:
        """Count one entry of the ledger."""
        labels = self._labels.of(entry.account.team, entry.account.run)
        if entry.kind == "close":
            self.groups.labels(*labels).inc()
            self.saved.labels(*labels).inc(entry.reference)
            return
        self.rollouts.labels(*labels, KINDS[entry.kind]).inc(entry.rollouts)
        if entry.kind in ("commit", "overage"):
            self.saved.labels(*labels).dec(entry.rollouts)
        if entry.extra:
            self.extra.labels(*labels).inc(entry.rollouts)

    def budgets(self, views: Iterable[BudgetView]) -> None:
        """Set limits and use of these teams; a limit that was lifted is shown no more."""
        for gauge in (self.limit, self.in_use, self.limits, self.used, self.share):
            gauge.clear()
        for view in views:
            team, _ = self._teams.of(view.team, "")
            if team == OTHER:
                continue
            if view.limits.rollouts is not None:
                self.limit.labels(team).set(view.limits.rollouts)
            for state in ("reserved", "committed", "overage"):
                self.in_use.labels(team, state).set(getattr(view.usage, state))
            for use in view.uses:
                self.limits.labels(team, use.name).set(use.limit)
                self.used.labels(team, use.name).set(use.used)
                self.share.labels(team, use.name).set(use.share)

    def second_wall(self, stands: bool) -> None:  # noqa: FBT001  what it is called back with
        """Set whether the database keeps teams apart by itself too."""
        self._wall.set(stands)

    def _histogram(self, name: str, text: str, label: str) -> Histogram:
        return Histogram(f"rollout_budget_{name}", text, (label,), registry=self.registry, buckets=LEDGER_BUCKETS_S)

    def _learned(self, record: RunRecord) -> None:
        labels = self._labels.of(record.team, record.spec.run_id)
        if labels == (OTHER, OTHER):
            return
        learned = record.reliability
        figures = {
            self.price: price_in_force(record),
            self.squared_error: learned.squared_prior_error,
            self.explained_variance: learned.explained_variance,
            self.strength: learned.strength,
            self.rejected: learned.rejected_share,
            self.calibration: learned.calibration_error,
        }
        for gauge, value in figures.items():
            if value is not None:
                gauge.labels(*labels).set(value)
