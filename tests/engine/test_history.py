"""The prior source in process: a prompt's own past, fading, and the running mean."""

from __future__ import annotations

from itertools import permutations

import pytest

from rollout_budget.engine import history
from rollout_budget.engine.history import HALF_LIFE_VERSIONS, MEAN_STRENGTH, HistoryPrior
from rollout_budget.wire import EvidenceRow, PriorModel, Prompt, Value

ROWS = [
    EvidenceRow(id="1", key="easy", version=0, successes=4, trials=4),
    EvidenceRow(id="2", key="hard", version=0, successes=0, trials=8),
    EvidenceRow(id="3", key="easy", version=3, successes=3.5, trials=4),
]


async def values(priors: HistoryPrior, *keys: str, version: int = 3, model: PriorModel = "history") -> list[Value]:
    """Ask for some prompts of the policy that all tests use."""
    return (await priors.values("team", "p", version, [Prompt(key=key) for key in keys], model)).values


async def test_before_any_evidence_the_middle() -> None:
    """One half, as uncertain as Laplace's rule says."""
    (found,) = await values(HistoryPrior(), "new")
    assert (found.value, found.evidence_count) == (0.5, 0)
    assert found.standard_error == pytest.approx((0.25 / (MEAN_STRENGTH + 1)) ** 0.5)


async def test_a_prompt_is_judged_by_its_own_past_and_new_ones_by_the_mean() -> None:
    """Known prompts lean to their own outcomes, with less error; unknown ones take the running mean."""
    priors = HistoryPrior()
    await priors.add_evidence("team", "p", ROWS)
    easy, hard, new = await values(priors, "easy", "hard", "new")
    (mean,) = await values(priors, "new", model="running_mean")
    assert hard.value < new.value == mean.value < easy.value
    assert new.value == pytest.approx((7.5 + 1.0) / (16 + 2), abs=0.01)
    assert max(easy.standard_error, hard.standard_error) < new.standard_error
    assert (easy.evidence_count, hard.evidence_count, new.evidence_count) == (2, 1, 0)


async def test_evidence_fades_by_half_in_a_half_life() -> None:
    """Of the same rows, a later version counts half."""
    priors = HistoryPrior()
    await priors.add_evidence("team", "p", ROWS[:1])
    near = await values(priors, "easy", version=0)
    far = await values(priors, "easy", version=int(HALF_LIFE_VERSIONS))
    assert near[0].value == pytest.approx((4 + MEAN_STRENGTH * 5 / 6) / (4 + MEAN_STRENGTH))
    assert far[0].value == pytest.approx((2 + MEAN_STRENGTH * 3 / 4) / (2 + MEAN_STRENGTH))


async def test_g03_order_and_repetition_of_evidence_do_not_matter() -> None:
    """Every order, each row twice: the same values."""
    seen = set()
    for order in permutations(ROWS):
        priors = HistoryPrior()
        for row in order:
            await priors.add_evidence("team", "p", [row, row])
        seen.add(tuple(value.value for value in await values(priors, "easy", "hard", "new")))
    assert len(seen) == 1


async def test_g14_teams_and_policies_have_their_own_past() -> None:
    """Nothing leaks."""
    priors = HistoryPrior()
    await priors.add_evidence("team", "p", ROWS)
    for team, policy in (("neighbour", "p"), ("team", "q")):
        answer = await priors.values(team, policy, 3, [Prompt(key="hard")], "history")
        assert (answer.values[0].value, answer.evidence_version) == (0.5, 0)


async def test_the_answer_names_the_model_that_gave_it() -> None:
    """There is no head that learns from texts here: history answers for it."""
    named = {model: (await HistoryPrior().values("t", "p", 0, [Prompt(key="k")], model)).model for model in MODELS}
    learned = dict.fromkeys(("gp", "tabpfn", "tabicl"), "history")
    assert named == learned | {"history": "history", "running_mean": "running_mean", "constant": "constant"}


MODELS: list[PriorModel] = ["gp", "tabpfn", "tabicl", "history", "running_mean", "constant"]


async def test_a_constant_stays() -> None:
    """A control that learns nothing."""
    priors = HistoryPrior()
    await priors.add_evidence("team", "p", ROWS)
    assert [value.value for value in await values(priors, "easy", "new", model="constant")] == [0.5, 0.5]


async def test_only_the_newest_rows_are_known_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that runs for months holds a bounded number of ids."""
    monkeypatch.setattr(history, "REMEMBERED_ROWS", 2)
    priors = HistoryPrior()
    await priors.add_evidence("team", "p", ROWS)
    await priors.add_evidence("team", "p", ROWS[1:])
    easy, hard = await values(priors, "easy", "hard")
    assert (easy.evidence_count, hard.evidence_count) == (2, 1)
    assert len(priors._seen) == 2
