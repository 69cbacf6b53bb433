"""The kinds of evidence of the table in the method's section on the prior, each with its reference figures there."""

from __future__ import annotations

from services.prior_api.evaluate.splits import PROTOCOLS, Protocol

REFERENCES: dict[str, tuple[float, float, float]] = {
    "own": (0.617, 0.519, 0.04),
    "unseen": (0.71, 0.46, 0.16),
    "recurring": (0.767, 0.417, 0.25),
    "few": (0.552, 0.557, -0.03),
    "new": (0.705, 0.478, 0.13),
}
"""AUC, raw error and explained variance, by protocol."""
REFERRED: tuple[Protocol, ...] = tuple(protocol for protocol in PROTOCOLS if protocol.name in REFERENCES)
"""The protocols that have one, in order."""
