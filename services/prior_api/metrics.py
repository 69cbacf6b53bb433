"""Metrics of the prior service; HTTP latencies are the kit's. No label carries a team, a policy, a key or a prompt."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
REFIT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Around the aim of 0.2 s."""
ENCODER_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""From one short text to a full batch of long ones on one core."""


class Metrics:
    """One set per application, on its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.batch_size = Histogram(
            "rollout_budget_encoder_batch_size",
            "Texts per call of the encoder.",
            registry=self.registry,
            buckets=BATCH_BUCKETS,
        )
        self.encoder = Histogram(
            "rollout_budget_encoder_seconds",
            "Time of one call of the encoder.",
            registry=self.registry,
            buckets=ENCODER_BUCKETS_S,
        )
        self.encoder_ready = Gauge(
            "rollout_budget_encoder_ready", "1 once the encoder is loaded, 0 before or where it cannot be.",
            registry=self.registry,
        )  # fmt: skip
        self.queue_depth = Gauge(
            "rollout_budget_encoder_queue_depth", "Texts that wait for the encoder.", registry=self.registry
        )
        self.features = Counter(
            "rollout_budget_feature_lookups",
            "Look-ups of features by where they were found (memory, database, nowhere).",
            ("found",),
            registry=self.registry,
        )
        self.evidence = Counter(
            "rollout_budget_evidence_rows",
            "Evidence rows by what became of them (stored, repeated).",
            ("result",),
            registry=self.registry,
        )
        self.refit = Histogram(
            "rollout_budget_prior_refit_seconds",
            "Time of one fit of the Gaussian process.",
            registry=self.registry,
            buckets=REFIT_BUCKETS_S,
        )
        self.values = Counter(
            "rollout_budget_prior_values",
            "Values given, by the model that gave them and whether the answer was degraded.",
            ("model", "degraded"),
            registry=self.registry,
        )
