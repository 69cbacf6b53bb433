"""The persistent map against a plain dictionary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget.ledger import maps
from rollout_budget.ledger.maps import Map

updates = st.lists(st.dictionaries(st.integers(0, 40), st.integers(), max_size=8), max_size=12)


@given(start=st.dictionaries(st.integers(0, 40), st.integers()), changes=updates, folding=st.sampled_from([0, 1, 512]))
def test_a_map_reads_like_a_dictionary(start: dict[int, int], changes: list[dict[int, int]], folding: int) -> None:
    """Whatever is folded when: the same keys in the same order, the same values, and every older map as it was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "TYPICAL_UPDATE", folding)
        expected, found = [start], [Map(start)]
        for change in changes:
            expected.append(expected[-1] | change)
            found.append(found[-1].updated(change))
        for plain, persistent in zip(expected, found, strict=True):
            assert list(persistent.items()) == list(plain.items())
            assert len(persistent) == len(plain)
            assert all(persistent.get(key, None) == plain.get(key) for key in range(41))
            assert all((key in persistent) == (key in plain) for key in range(41))


def test_a_map_without_some_keys_leaves_the_whole_one() -> None:
    """Removal makes a new map, in the old order."""
    whole = Map({1: "a", 2: "b", 3: "c"})
    assert list(whole.without({2, 9})) == [1, 3]
    assert list(whole) == [1, 2, 3]
    with pytest.raises(KeyError):
        whole.without({2})[2]
