"""Do server and learner hold the same weights? Their log-probabilities of the same sampled tokens say so.

Pure: takes samples that training drew anyway (so the counts of rollouts stay what they are) and the learner's own scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trainer.errors import WeightUpdateFailed
from trainer.types import Sample

TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest difference by the server's dtype: equal weights gave 1e-6 in float32 and 3.5e-3 in bfloat16 on a small model;
one stale step of a working learning rate gives far more than 1e-3, another policy more than 1."""

Score = Callable[[Sequence[tuple[Sequence[int], Sequence[int]]]], Sequence[Sequence[float]]]
"""Given (prompt ids, completion ids) pairs, the learner's log-probability of every completion token."""


def check_logprobs(samples: Sequence[tuple[Sequence[int], Sample]], score: Score, *, tolerance: float) -> float:
    """Compare the servers' log-probabilities with the learner's; return the largest difference of any token.

    Args:
        samples: (prompt ids, sample) pairs, all of the version that the learner holds; a few dozen are plenty.
        score: the learner's own log-probabilities, at the temperature of the samples.
        tolerance: see `TOLERANCE`.

    Raises:
        WeightUpdateFailed: a token differs by more than `tolerance`, or a value is not a number.
    """
    scores = score([(prompt_ids, sample.token_ids) for prompt_ids, sample in samples])
    worst = 0.0
    for (_, sample), own in zip(samples, scores, strict=True):
        for position, (theirs, ours) in enumerate(zip(sample.logprobs, own, strict=True)):
            difference = abs(theirs - ours)
            if not difference <= tolerance:
                raise WeightUpdateFailed(
                    f"token {position} of {sample.text!r} (version {sample.version}) has log-probability {theirs:.6f} on "
                    f"the server and {ours:.6f} in the learner, more than {tolerance} apart: not the same weights, or another temperature (start "
                    "your own vLLM with --logprobs-mode processed_logprobs)"
                )
            worst = max(worst, difference)
    return worst
