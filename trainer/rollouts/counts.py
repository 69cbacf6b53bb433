"""What servers have sent, counted so that it can be held against their own counts."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(slots=True)
class Counts:
    """What a server has sent; each completion is in one of these counts.

    vLLM's `request_success_total` of stop and length equals `samples + discarded` where nothing was cancelled, and lies
    between that and `samples + discarded + cancelled` otherwise: of a cancelled call only the server knows which
    completions had ended. vLLM counts one request per sampled completion, not per call: n children of a prompt count n
    (measured on 0.32.0). What it aborted is not in those counts, so a completion of several parts counts once, with its
    last part.

    Attributes:
        calls: answered calls, of any number of samples.
        samples: finished completions that were returned to the caller, exactly once each.
        tokens: sampled tokens of those, and of parts that a continuation goes on from.
        discarded: finished completions that did not count (another version, or a sibling could not be finished).
        failed: calls that brought nothing that counts.
        aborted: parts that a pause for new weights cut off and another call went on from.
        cancelled: completions that nobody waited for any more: none was returned, whatever the server had sampled of it.
    """

    calls: int = 0
    samples: int = 0
    tokens: int = 0
    discarded: int = 0
    failed: int = 0
    aborted: int = 0
    cancelled: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Return the sums."""
        return Counts(*(own + others for own, others in zip(astuple(self), astuple(other), strict=True)))
