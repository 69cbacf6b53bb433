"""What integrations share: which prompts are the same, which reward is the outcome, what an unverified rollout gets."""

from __future__ import annotations

import numpy as np
import pytest

import rollout_budget as rb
from rollout_budget.errors import InvalidInput
from rollout_budget.integrations.shared import Scores, Verdict, outcome_place, prompt_of, spread

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "2+2="}]}]
NONE = float("nan")


def test_a_prompt_is_named_by_its_column_or_else_by_a_hash_of_it() -> None:
    named = prompt_of({"id": 7, "prompt": "2+2="}, group="g0", key="id")
    assert (named.key, named.text, named.group) == ("7", "2+2=", "g0")
    hashed = [prompt_of({"prompt": text}, group="g", key="id").key for text in ("2+2=", "2+2=", "2+3=", MESSAGES)]
    assert hashed[0] == hashed[1]
    assert len(set(hashed)) == 3
    assert prompt_of({"prompt": MESSAGES}, group="g", key=None).text == "Be brief.\n2+2="


def test_the_outcome_is_the_function_that_is_named() -> None:
    assert outcome_place(["correct"], None) == 0
    assert outcome_place(["brief", "correct"], "correct") == 1
    for names, outcome in ((["brief", "correct"], None), (["brief"], "correct"), (["same", "same"], "same")):
        with pytest.raises(InvalidInput, match="name one of the reward functions"):
            outcome_place(names, outcome)


def test_rollouts_without_an_outcome_are_lost_and_get_no_advantage() -> None:
    """Totals are TRL's: what applies is summed, and nothing at all is NaN; the group hears verified ones only."""
    table = np.array([[1.0, NONE, 0.0, NONE], [-0.5, -0.25, NONE, NONE]])
    scores = Scores(table, 0, np.array([1.0, 2.0]))
    np.testing.assert_allclose(scores.totals, [0.0, -0.5, 0.0, NONE])
    with rb.Session("scores", policy="m", k_init=4) as session:
        (group,) = session.open(["p"], version=0)
        scores.add_to(group, tokens=9)
        session.close([group])
    assert (group.outcomes, group.rewards, group.lost, group.tokens) == ([1.0, 0.0], [0.0, 0.0], 2, 9)
    spreaded = spread(group.advantages, scores.verified.tolist())
    assert spreaded == [group.advantages[0], 0.0, group.advantages[1], 0.0]


@pytest.mark.parametrize(("weights", "shaped"), [([1.0], False), ([2.0], True), ([1.0, 0.0], True)])
def test_a_lone_outcome_is_its_own_reward(weights: list[float], shaped: bool) -> None:  # noqa: FBT001
    scores = Scores(np.ones((len(weights), 2)), 0, np.array(weights))
    assert scores.shaped is shaped


def test_an_outcome_is_the_reward_or_a_value_beside_it_or_what_lies_above() -> None:
    """Truth values become the ends of the declared range; what is named and missing is an error, not a zero."""
    scale = rb.Range(low=-1, high=1)
    told = {"solved": np.True_, "share": 0.25}
    assert Verdict(scale).of(0.5, told) == 0.5
    assert Verdict(scale, "solved").of(0.5, told) == 1.0
    assert Verdict(scale, "solved").of(0.5, {"solved": False}) == -1.0
    assert Verdict(scale, "share").of(0.5, told) == 0.25
    assert [Verdict(scale, above=0.5).of(reward, told) for reward in (0.5, 0.75)] == [-1.0, 1.0]
    assert Verdict(scale, "share").of(None, {}) is None
    with pytest.raises(InvalidInput, match="share, solved"):
        Verdict(scale, "score").of(0.5, told)
    with pytest.raises(InvalidInput, match="not both"):
        Verdict(scale, "score", 0.0)
