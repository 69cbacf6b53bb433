"""One step as a line of `metrics.jsonl`: figures of drawing, learning and measuring under one roof. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rollout_budget.wire import PriorQuality
from trainer.evaluation import Measurement
from trainer.groups import StepStats
from trainer.learner.learner import StepStatistics
from trainer.metrics import StepMetrics
from trainer.production import Batch
from trainer.progress import Progress
from trainer.types import RolloutGroup


def progress_row(done: Progress, seconds: Mapping[str, float]) -> StepMetrics:
    """Return what is known without a step: totals so far."""
    return StepMetrics(
        step=done.step,
        version=done.step,
        elapsed_s=done.elapsed_s,
        rollouts_total=done.rollouts,
        rollouts_saved=done.saved,
        evaluation_rollouts=done.evaluation_rollouts,
        tokens_total=done.tokens,
        seconds=dict(seconds),
    )


def step_row(
    done: Progress, batch: Batch, learned: StepStatistics, quality: PriorQuality, seconds: Mapping[str, float]
) -> StepMetrics:
    """Return the line of a step that was learned from."""
    figures = {
        **_drawing(batch.drawn, batch.groups),
        **_learning(learned),
        "prior_squared_error": quality.squared_prior_error,
        "prior_explained_variance": quality.explained_variance,
        "prior_strength": quality.strength,
        "replayed": batch.replayed,
    }
    return progress_row(done, seconds).model_copy(update=figures)


def with_measurement(row: StepMetrics, measured: Measurement | None) -> StepMetrics:
    """Return a line with what was measured after its step, if anything was."""
    if measured is None:
        return row
    return row.model_copy(
        update={
            "held_out_accuracy": measured.main,
            "held_out_greedy": measured.greedy,
            "held_out_error": measured.standard_error,
        }
    )


def _drawing(drawn: StepStats, groups: Sequence[RolloutGroup]) -> dict[str, object]:
    outcomes = [outcome for group in groups for outcome in group.outcomes]
    return {
        "accuracy": sum(outcomes) / len(outcomes) if outcomes else None,
        "groups": drawn.groups,
        "mean_group_size": drawn.used / drawn.groups if drawn.groups else None,
        "rollouts": drawn.used,
        "cancelled": drawn.cancelled,
        "without_signal": drawn.without_signal,
        "tokens": drawn.tokens,
        "drawing_s": round(drawn.seconds, 4),
        "allocator_s": round(drawn.allocator_s, 4),
        "degraded": drawn.degraded,
        "fallback": drawn.fallback,
        "detail": drawn.detail,
        "request_ids": list(drawn.request_ids),
    }


def _learning(learned: StepStatistics) -> dict[str, object]:
    return {
        "loss": learned.loss,
        "grad_norm": learned.grad_norm,
        "clip_fraction": learned.clip_fraction,
        "kl": learned.kl,
        "entropy": learned.entropy,
        "mismatch": learned.mismatch,
        "skipped": learned.skipped,
        "tokens_per_second": learned.tokens_per_second,
        "peak_memory_bytes": learned.peak_memory_bytes,
        "staleness_mean": learned.mean_staleness,
        "staleness_max": learned.max_staleness,
        "truncated": learned.truncated,
        "kl_reference": learned.kl_reference,
    }
