"""Estimators: expectation, variance and limits by exact enumeration, the paper's formulas, and invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget import baselines
from rollout_budget.errors import InvalidInput
from rollout_budget.groups import Groups
from rollout_budget.outcomes import OutcomeRange
from rollout_budget.reliability import MAX_STRENGTH, Reliability
from tests.core.enumeration import PRIORS, RATES, patterns, probabilities, same_prior

KNOWN = Reliability.known(1 / 12, 1 / 6)
unit = st.floats(0.0, 1.0)
group = st.tuples(unit, st.lists(st.sampled_from([0.0, 0.25, 1.0]), max_size=8))
batches = st.lists(group, min_size=1, max_size=8)
names = st.sampled_from(sorted(baselines.ESTIMATORS))
states = st.builds(Reliability.known, st.floats(0.0, 0.5), st.floats(0.0, 0.5))


def build(batch: list[tuple[float, list[float]]]) -> Groups:
    return Groups.of([prior for prior, _ in batch], [outcomes for _, outcomes in batch])


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("prior", PRIORS)
def test_moments_of_linear_estimators(k: int, p: float, prior: float) -> None:
    """Mean and variance of the three linear estimators are those of their formulas, for group and sample."""
    drawn = patterns(k)
    chance, groups, m = probabilities(drawn, p), same_prior(prior, drawn), KNOWN.strength
    noise = p * (1 - p)
    rloo = (prior, 0.0) if k == 1 else (p, noise / (k - 1))
    expected = {
        "group_mean": ((p, noise / k), (p, noise / k)),
        "leave_one_out": ((p, noise / k), rloo),
        "empirical_bayes": (
            ((m * prior + k * p) / (m + k), k * noise / (m + k) ** 2),
            ((m * prior + (k - 1) * p) / (m + k - 1), (k - 1) * noise / (m + k - 1) ** 2),
        ),
    }
    for name, (of_group, of_sample) in expected.items():
        result = baselines.get(name)(groups, KNOWN)
        for values, (mean, variance) in ((result.value, of_group), (result.per_sample[::k], of_sample)):
            average = chance @ values
            assert average == pytest.approx(mean, abs=1e-12)
            assert chance @ (values - average) ** 2 == pytest.approx(variance, abs=1e-12)


def paper_fusion(v: float, y: list[float]) -> float:
    """Return the baseline of V0.5 as the paper writes it, on the {-1, +1} scale."""
    k, mean = len(y), sum(y) / len(y)
    variance = 1 / k
    bias = max(0.0, (mean - v) ** 2 - variance)
    weight = bias / (bias + variance)
    return weight * mean + (1 - weight) * v


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("prior", PRIORS)
def test_v05_is_the_papers_fusion_on_its_own_scale(k: int, prior: float) -> None:
    """Every pattern of outcomes in {-1, +1} gets the baseline of the paper's formula."""
    signed = OutcomeRange(-1.0, 1.0)
    drawn = [[2 * y - 1 for y in pattern] for pattern in patterns(k)]
    groups = Groups.of([2 * prior - 1] * len(drawn), drawn, outcome_range=signed)
    ours = signed.from_unit(baselines.get("v05")(groups, KNOWN).value)
    np.testing.assert_allclose(ours, [paper_fusion(2 * prior - 1, y) for y in drawn], atol=1e-12)


def test_v05_rejects_exactly_beyond_the_threshold() -> None:
    """At k = 4 a prior within 1/4 of the mean is kept, on the bound included; one beyond is not."""
    groups = Groups.of([0.25, 0.2499, 0.75, 0.7501], [[1.0, 1.0, 0.0, 0.0]] * 4)
    result = baselines.get("v05")(groups, KNOWN)
    assert result.trusted.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(result.value[[0, 2]], [0.25, 0.75])
    assert (result.weight[[1, 3]] > 0).all()


@given(batches)
def test_v05_never_strays_from_the_mean_by_more_than_the_bound(batch: list[tuple[float, list[float]]]) -> None:
    """The baseline lies within 1/(2 sqrt k) of the group's mean, so its bias is at most that."""
    groups = build(batch)
    drawn = groups.sizes > 0
    distance = np.abs(baselines.get("v05")(groups, KNOWN).value - groups.means)[drawn]
    assert (distance <= 0.5 / np.sqrt(groups.sizes[drawn]) + 1e-12).all()


@pytest.mark.parametrize("k", [2, 4, 8])
def test_v05_keeps_wrong_priors_that_pooling_corrects(k: int) -> None:
    """For a prior off by 0.25 at p = 1/2, the paper's fusion errs more than empirical Bayes told the true D."""
    drawn = patterns(k)
    chance, groups = probabilities(drawn, 0.5), same_prior(0.25, drawn)
    informed = Reliability.known(1 / 16, 1 / 4)
    squared = {
        name: chance @ (baselines.get(name)(groups, informed).value - 0.5) ** 2 for name in ("v05", "empirical_bayes")
    }
    assert squared["empirical_bayes"] == pytest.approx(0.25 / (4 + k), abs=1e-12)
    assert squared["v05"] > squared["empirical_bayes"]


@given(names, batches)
def test_groups_without_outcomes_get_their_prior(name: str, batch: list[tuple[float, list[float]]]) -> None:
    """Size 0 means baseline V and no weight on a mean that does not exist."""
    groups = build([(prior, []) for prior, _ in batch])
    result = baselines.get(name)(groups, KNOWN)
    np.testing.assert_allclose(result.value, groups.prior, atol=1e-12)
    assert not result.weight.any()
    assert result.trusted.all()


@pytest.mark.parametrize("name", ["leave_one_out", "empirical_bayes", "james_stein", "beta_history"])
@given(prior=unit, outcome=st.sampled_from([0.0, 1.0]))
def test_a_singleton_has_its_prior_as_baseline(name: str, prior: float, outcome: float) -> None:
    """K = 1: no siblings, so V, never 0 and never the sample itself."""
    result = baselines.get(name)(Groups.of([prior], [[outcome]]), KNOWN)
    assert result.per_sample[0] == pytest.approx(prior, abs=1e-12)


@given(batches)
def test_a_useless_prior_gives_leave_one_out(batch: list[tuple[float, list[float]]]) -> None:
    """As D grows, empirical Bayes becomes RLOO."""
    groups = build(batch)
    useless = Reliability.known(1e6, 0.25)
    ours = baselines.get("empirical_bayes")(groups, useless).per_sample
    np.testing.assert_allclose(ours, baselines.get("leave_one_out")(groups, useless).per_sample, atol=1e-3)


@given(batches)
def test_a_perfect_prior_stays(batch: list[tuple[float, list[float]]]) -> None:
    """As D goes to 0, the baseline stays at V, up to the cap on how much a prior may count."""
    groups = build(batch)
    ours = baselines.get("empirical_bayes")(groups, Reliability.known(0.0, 0.25))
    others = groups.sizes[groups.owner] - 1
    moved = np.abs(ours.per_sample - groups.prior[groups.owner])
    assert (moved <= others / (MAX_STRENGTH + others) + 1e-12).all()


@given(names, batches, states)
def test_all_results_are_finite_and_in_range(
    name: str, batch: list[tuple[float, list[float]]], state: Reliability
) -> None:
    """Whatever comes in, what goes out can be sent as JSON."""
    groups = build(batch)
    result = baselines.get(name)(groups, state)
    assert result.value.shape == result.weight.shape == result.strength.shape == (len(groups),)
    assert result.per_sample.shape == groups.outcomes.shape
    for values in (result.value, result.per_sample, result.weight):
        assert ((values >= 0) & (values <= 1)).all()
    assert np.isfinite(result.strength).all()
    assert np.isfinite(result.standard_error).all()


@given(names, batches)
def test_order_of_outcomes_does_not_matter(name: str, batch: list[tuple[float, list[float]]]) -> None:
    """Reversing the outcomes of a group reverses their baselines and changes nothing else."""
    estimator = baselines.get(name)
    groups = build(batch)
    backwards = build([(prior, outcomes[::-1]) for prior, outcomes in batch])
    forth, back = estimator(groups, KNOWN), estimator(backwards, KNOWN)
    np.testing.assert_allclose(forth.value, back.value, atol=1e-12)
    for one, other in zip(groups.split(forth.per_sample), groups.split(back.per_sample), strict=True):
        np.testing.assert_allclose(one, other[::-1], atol=1e-12)


@given(names, batches, st.data())
def test_order_of_groups_does_not_matter(
    name: str, batch: list[tuple[float, list[float]]], data: st.DataObject
) -> None:
    """A batch is a set of groups: each is decided in the same way wherever it stands."""
    order = data.draw(st.permutations(range(len(batch))))
    straight = baselines.get(name)(build(batch), KNOWN)
    mixed = baselines.get(name)(build([batch[i] for i in order]), KNOWN)
    np.testing.assert_allclose(mixed.value, straight.value[order], atol=1e-12)
    np.testing.assert_allclose(mixed.weight, straight.weight[order], atol=1e-12)


@given(names, batches, st.floats(-100, 100), st.floats(0.01, 100))
def test_the_outcome_scale_does_not_matter(
    name: str, batch: list[tuple[float, list[float]]], low: float, width: float
) -> None:
    """The same groups on another scale have the same baselines on that scale."""
    scale = OutcomeRange(low, low + width)
    scaled = Groups.of(
        np.clip(scale.from_unit([prior for prior, _ in batch]), scale.low, scale.high),
        [np.clip(scale.from_unit(outcomes), scale.low, scale.high).tolist() for _, outcomes in batch],
        outcome_range=scale,
    )
    ours, theirs = baselines.get(name)(build(batch), KNOWN), baselines.get(name)(scaled, KNOWN)
    np.testing.assert_allclose(theirs.value, ours.value, atol=1e-6)
    np.testing.assert_allclose(scale.from_unit(theirs.per_sample), scale.from_unit(ours.per_sample), atol=1e-5 * width)


def test_standard_errors_at_known_numbers() -> None:
    """sqrt(S/k) for means, the posterior's for empirical Bayes, the plug-in for the paper."""
    groups = Groups.of([0.5], [[1.0, 1.0, 1.0, 1.0]])
    m = KNOWN.strength
    q = (m / 2 + 4) / (m + 4)
    assert baselines.get("group_mean")(groups, KNOWN).standard_error[0] == pytest.approx(math.sqrt(1 / 24))
    assert baselines.get("empirical_bayes")(groups, KNOWN).standard_error[0] == pytest.approx(
        math.sqrt(q * (1 - q) / (m + 5))
    )
    bias, noise = 0.25 - 1 / 16, 1 / 16
    assert baselines.get("v05")(groups, KNOWN).standard_error[0] == pytest.approx(
        math.sqrt(bias * noise / (bias + noise))
    )


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    """A misspelt estimator says what there is."""
    with pytest.raises(InvalidInput, match="group_mean, leave_one_out, v05, empirical_bayes"):
        baselines.get("grpo")
