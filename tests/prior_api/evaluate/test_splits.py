"""No target is in its own evidence, whatever the outcomes; each protocol holds out what it says."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.prior_api.evaluate.data import Outcomes, Row
from services.prior_api.evaluate.splits import FEW, MIN_TARGETS, PROTOCOLS, judged, split
from tests.prior_api.evaluate.synthetic import law

BY_NAME = {protocol.name: protocol for protocol in PROTOCOLS}


@st.composite
def outcomes(draw: st.DrawFn) -> Outcomes:
    """Draw up to three policies at any versions, each key with its own choice of few prompts, so that many recur."""
    keys = draw(st.sets(st.tuples(st.sampled_from("mno"), st.integers(0, 4)), min_size=1, max_size=6))
    rng = draw(st.randoms(use_true_random=False))
    rows = {
        (policy, version): [
            Row(policy, version, f"p{prompt}", rng.randint(0, 4), 4)
            for prompt in rng.sample(range(150), rng.randint(1, 110))
        ]
        for policy, version in sorted(keys)
    }
    return Outcomes(rows, {})


@given(outcomes(), st.integers(0, 2**31), st.integers(1, 60))
@settings(max_examples=150, deadline=None)
def test_no_target_is_in_its_support(found: Outcomes, seed: int, size: int) -> None:
    """No (policy, version, prompt) of a target is in the support; where targets are unseen, no prompt of theirs is."""
    cut = split(found, seed, size)
    for key, targets in cut.targets.items():
        held = {(*key, row.prompt) for row in targets}
        prompts = {row.prompt for row in targets}
        for protocol in PROTOCOLS:
            support = protocol.support(found, cut, key)
            places = [(*row.key, row.prompt) for row in support]
            assert not held & set(places)
            assert len(set(places)) == len(places)
            if protocol.unseen:
                assert not prompts & {row.prompt for row in support}


@given(outcomes(), st.integers(0, 2**31), st.integers(1, 60))
@settings(max_examples=80, deadline=None)
def test_each_protocol_lets_in_what_it_says(found: Outcomes, seed: int, size: int) -> None:
    cut = split(found, seed, size)
    for key in found.rows:
        support = {name: protocol.support(found, cut, key) for name, protocol in BY_NAME.items()}
        own = {name: [row for row in rows if row.key == key] for name, rows in support.items()}
        assert support["own"] == cut.evidence[key]
        assert own["unseen"] == own["recurring"] == cut.evidence[key]
        others = [row for other, rows in found.rows.items() if other != key for row in rows]
        assert [row for row in support["recurring"] if row.key != key] == others
        assert all(row.version < key[1] for row in support["version"])
        assert support["few"] == own["new"] == own["new-recurring"] == cut.evidence[key][:FEW]
        assert own["zero-shot"] == own["zero-shot-recurring"] == []
        for name in ("new", "new-recurring", "zero-shot", "zero-shot-recurring"):
            assert all(row.policy != key[0] or row.key == key for row in support[name])
        assert set(support["zero-shot"]) <= set(support["zero-shot-recurring"])


@given(outcomes(), st.integers(0, 2**31), st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_halves_are_as_large_as_they_can_be(found: Outcomes, seed: int, size: int) -> None:
    cut = split(found, seed, size)
    for key, rows in found.rows.items():
        evidence, targets = cut.evidence[key], cut.targets[key]
        assert len(evidence) == min(size, len(rows) // 2)
        assert len(targets) == min(size, len(rows) - len(evidence))
        assert set(evidence) | set(targets) <= set(rows)
        assert not set(evidence) & set(targets)


def test_splits_come_from_their_seed_alone() -> None:
    found = law(0)
    assert split(found, 3, 20) == split(found, 3, 20) != split(found, 4, 20)


def test_only_newest_versions_and_only_policies_beside_others_are_judged() -> None:
    """A newest version needs an older one; a new policy needs another; tiny keys are judged by nobody."""
    found = law(0, versions=(1, 5, 9))
    cut = split(found, 0, 20)
    assert judged(found, cut, BY_NAME["version"], 100) == [("m", 9), ("n", 9)]
    assert judged(found, cut, BY_NAME["own"], 100) == list(found.rows)
    assert judged(found, cut, BY_NAME["own"], 4) == [("m", 1), ("m", 9), ("n", 1), ("n", 9)]
    alone = law(0, policies=("m",), versions=(1,))
    applicable = [name for name, protocol in BY_NAME.items() if judged(alone, split(alone, 0, 20), protocol, 100)]
    assert applicable == ["own"]
    tiny = law(0, rows=2 * MIN_TARGETS - 2)
    assert judged(tiny, split(tiny, 0, 256), BY_NAME["own"], 100) == []
