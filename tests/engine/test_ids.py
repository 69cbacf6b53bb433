"""Derived ids: lossless, bounded, stable."""

from __future__ import annotations

from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from rollout_budget.engine.ids import evidence_id, fingerprint, reservation_id, reservation_ids
from rollout_budget.engine.records import GroupKey
from rollout_budget.wire import EvidenceRow, OpenGroup

names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30)
keys = st.builds(GroupKey, names, st.integers(0, 1_000_000))


@given(run=names, key=keys, wave=st.integers(0, 99))
def test_a_reservation_id_can_be_read_back(run: str, key: GroupKey, wave: int) -> None:
    """Four parts, whatever the names hold."""
    parts = reservation_id(run, key, wave).split("/")
    assert [unquote(part) for part in parts] == [run, key.group_id, str(key.attempt), str(wave)]
    assert reservation_ids(run, key, wave + 1)[wave] == reservation_id(run, key, wave)


def test_names_with_slashes_do_not_meet() -> None:
    """("a/b", "c") is not ("a", "b/c"), nor is an encoded slash a slash."""
    pairs = [("a/b", "c"), ("a", "b/c"), ("a%2Fb", "c"), ("a", "b%2Fc")]
    assert len({reservation_id(run, GroupKey(group, 0), 0) for run, group in pairs}) == len(pairs)
    assert len({evidence_id(team, run, GroupKey("g", 0)) for team, run in pairs}) == len(pairs)


def test_an_evidence_id_fits_the_wire_whatever_its_parts() -> None:
    """Names of the greatest length, every character of which is encoded."""
    identity = evidence_id("é" * 200, "é" * 200, GroupKey("é" * 200, 1_000_000))
    assert EvidenceRow(id=identity, key="k", version=0, successes=1, trials=1).id == identity


def test_a_fingerprint_is_of_the_meaning() -> None:
    """1 and 1.0, present and default: the same body; anything else is another."""
    plain = OpenGroup.model_validate({"group_id": "g", "prompt_key": "k", "prior": {"value": 1}})
    spelt = OpenGroup.model_validate({"prompt_key": "k", "group_id": "g", "attempt": 0, "prior": {"value": 1.0}})
    other = OpenGroup.model_validate({"prompt_key": "k", "group_id": "g", "attempt": 1, "prior": {"value": 1.0}})
    assert fingerprint(plain) == fingerprint(spelt) != fingerprint(other)
