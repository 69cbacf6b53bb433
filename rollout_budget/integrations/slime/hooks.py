"""slime's hooks on samples that it has drawn: rewards become our advantages, figures go into its log.

Owns the signatures, which are slime's. Groups keep the size that slime gave them.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from rollout_budget.integrations.slime.books import MARK, Sample, books_of

log = logging.getLogger(__name__)


def post_process_rewards(args: Any, samples: Sequence[Any]) -> tuple[list[float], list[float]]:
    """Return raw rewards and advantages, one per sample; for `--custom-reward-post-process-path`.

    slime takes the second list in place of its own normalised rewards. A sample without a reward has 0 in both.

    Raises:
        InvalidInput: an outcome lies outside the range that the run declares, or the settings are at fault.
    """
    books = books_of(args)
    flat = list(_flat(samples))
    books.book(flat)
    return [books.reward(sample) or 0.0 for sample in flat], [float(sample.metadata[MARK]) for sample in flat]


def log_rollout_data(
    rollout_id: int,
    args: Any,
    samples: Sequence[Any],
    rollout_extra_metrics: dict[str, Any] | None,
    rollout_time: float,  # noqa: ARG001 - slime's signature
) -> bool:
    """Add `budget/...` to what slime logs, and let it log; for `--custom-rollout-log-function-path`.

    Raises:
        InvalidInput: as for `post_process_rewards`.
    """
    books = books_of(args)
    books.book(_flat(samples))
    if rollout_extra_metrics is None:
        log.warning("slime gave no metrics to add to: rollout %d is logged without the budget's figures", rollout_id)
    else:
        rollout_extra_metrics.update(books.session.metrics())
    return False


def book_all_samples(args: Any, samples: Sequence[Any], data_source: Any) -> None:  # noqa: ARG001 - slime's signature
    """Book what slime drew, also what its dynamic sampling drops; for `--rollout-all-samples-process-path`.

    Raises:
        InvalidInput: as for `post_process_rewards`.
    """
    books_of(args).book(_flat(samples))


def _flat(samples: Sequence[Any]) -> Iterator[Sample]:
    """Give samples one by one, however deep slime's groups are."""
    return itertools.chain.from_iterable(_flat(one) if isinstance(one, (list, tuple)) else (one,) for one in samples)
