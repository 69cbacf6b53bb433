"""Completions that a change of weights cut off, and how they go on. Pure: no calls here.

When weights change while rollouts are drawn, the servers end what is under way and hand over what they have. A completion
that is not finished goes on in a new call: prompt and tokens so far are its prompt, what is left of `max_tokens` its
bound. Each token keeps the log-probability of the distribution it was drawn from and the version of the weights of that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from trainer.types import Sample, Sampling

MOST_PARTS = 64
"""Parts of one completion before it is given up: as many updates met it, beyond any staleness that is worth learning from."""

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, special tokens left out."""


@dataclass(frozen=True, slots=True)
class Remainder:
    """What is still to be drawn of one completion: a call of one sample."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    version: int
    seed: int


def remainder(
    prompt_ids: Sequence[int], sample: Sample, *, sampling: Sampling, version: int, seed: int, child: int, part: int
) -> Remainder:
    """Return the call that goes on from an unfinished sample.

    Args:
        prompt_ids: of the sample.
        sample: what there is of it.
        sampling: of the whole completion.
        version: the oldest that the caller takes; tokens so far may have raised it, and versions never fall back.
        seed: of the whole group.
        child: place of the sample in its group.
        part: number of the next part, from 1.
    """
    return Remainder(
        prompt_ids=(*prompt_ids, *sample.token_ids),
        sampling=replace(sampling, max_tokens=sampling.max_tokens - len(sample.token_ids)),
        version=max((version, *sample.token_versions[-1:])),
        seed=part_seed(seed, child, part),
    )


def joined(first: Sample, rest: Sample, decode: Decode | None = None) -> Sample:
    """Return one sample of two parts.

    Its text is that of all its tokens if `decode` is given. Otherwise it is the parts' texts in a row, which differs where
    a character of several tokens was cut in two: harmless for plain text, not for every script.
    """
    tokens = first.token_ids + rest.token_ids
    versions = first.token_versions + rest.token_versions
    mixed = len(set(versions)) > 1
    return Sample(
        token_ids=tokens,
        logprobs=first.logprobs + rest.logprobs,
        text=decode(tokens) if decode is not None else first.text + rest.text,
        finish_reason=rest.finish_reason,
        version=versions[0] if versions else rest.version,
        versions=versions if mixed else (),
    )


def part_seed(seed: int, child: int, part: int) -> int:
    """Return the seed of a later part, in [0, 2^62): parts of one completion, and of siblings, must lie far apart."""
    digest = hashlib.sha256(f"{seed}/{child}/{part}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2
