"""What a client tells the trainer that it should report."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

_log = logging.getLogger("rollout_budget.client")


@dataclass(frozen=True, slots=True)
class Notice:
    """A change that a trainer should report.

    The service went `away`, came `back`, `refused` to book something, or says that a limit is `near`: once per limit.
    """

    kind: Literal["away", "back", "refused", "near"]
    detail: str


def warn(notice: Notice) -> None:
    """Log a notice as a warning."""
    _log.warning("allocator %s: %s", notice.kind, notice.detail)
