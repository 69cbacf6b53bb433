"""Parts of a completion that new weights have cut are put together as they were drawn. Pure."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.rollouts.continuation import joined, part_seed, remainder
from trainer.types import Sample, Sampling

tokens = st.lists(st.tuples(st.integers(0, 9), st.floats(-5, 0)), max_size=5)


@settings(max_examples=50, deadline=None)
@given(first=tokens, rest=st.lists(tokens, min_size=1, max_size=4), decoded=st.booleans())
def test_parts_join_into_one_sample(first: list[Any], rest: list[list[Any]], *, decoded: bool) -> None:
    """Tokens, log-probabilities and versions stay aligned and in order, whatever the lengths, empty parts included."""

    def part(drawn: list[Any], version: int) -> Sample:
        ids = tuple(token for token, _ in drawn)
        return Sample(ids, tuple(value for _, value in drawn), "".join(map(str, ids)), "abort", version)

    sample = part(first, 0)
    for version, drawn in enumerate(rest, 1):
        asked = remainder((5,), sample, sampling=Sampling(99), version=0, seed=1, child=0, part=version)
        assert asked.prompt_ids == (5, *sample.token_ids)
        assert asked.sampling.max_tokens == 99 - len(sample.token_ids)
        assert asked.version == max(0, *sample.token_versions, 0)
        sample = joined(sample, part(drawn, version), (lambda ids: "x" * len(ids)) if decoded else None)
    flat = [(token, value, version) for version, drawn in enumerate([first, *rest]) for token, value in drawn]
    assert list(zip(sample.token_ids, sample.logprobs, sample.token_versions, strict=True)) == flat
    assert sample.text == ("x" * len(flat) if decoded else "".join(str(token) for token, _, _ in flat))
    assert sample.version == (flat[0][2] if flat else len(rest))


def test_seeds_of_parts_are_apart() -> None:
    seeds = {part_seed(seed, child, part) for seed in range(5) for child in range(5) for part in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**62 for seed in seeds)
