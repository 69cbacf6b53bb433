"""Which texts go through a model together: by length, bounded by tokens with their padding, not by count."""

from __future__ import annotations

from collections.abc import Sequence


def plan(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Return places of `lengths`, each once, in batches whose longest member times their size is at most `most_tokens`.

    Sorted by length, so that next to nothing is padding. A text longer than the bound goes alone.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if batches and (len(batches[-1]) + 1) * lengths[place] <= most_tokens:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches
