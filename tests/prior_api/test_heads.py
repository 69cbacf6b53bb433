"""The heads' mathematics, against direct formulas, limits and the order of evidence."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout_budget.wire import EvidenceRow
from services.prior_api.heads import CONTROLS, Context, GaussianProcess, Predictions, Question
from services.prior_api.heads import gp as gp_module
from services.prior_api.heads.base import Float32Array
from services.prior_api.heads.kernel import Pairs, Points, Shape
from services.prior_api.heads.table import Table
from services.prior_api.quality import levels_of
from services.prior_api.records import Cell
from tests.prior_api.fakes import WIDTH, embed

HEAD = GaussianProcess(WIDTH)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def cell(text: str, successes: float, trials: int, *, version: int = 0, policy: str = "m", known: bool = True) -> Cell:
    return Cell("t", policy, text, digest(text) if known else None, version, successes, trials, 1)


def features(*texts: str) -> dict[str, Float32Array]:
    return {digest(text): embed(text) for text in texts}


def question(
    *texts: str, version: int = 0, policy: str = "m", cells: Sequence[Cell] = (), known: bool = True
) -> Question:
    rows = [
        EvidenceRow(id=str(i), key=c.key, version=c.version, successes=c.successes, trials=c.trials)
        for i, c in enumerate(cells)
    ]
    return Question(
        owner=("t", policy),
        version=version,
        identities=[digest(text) if known else f"t\x00{text}" for text in texts],
        features=features(*texts) if known else {},
        histories=[[c for c in cells if c.key == text] for text in texts],
        levels=levels_of(rows),
    )


def fit_and_ask(cells: Sequence[Cell], asked: Question) -> Predictions:
    known = features(*(c.key for c in cells if c.text_hash))
    return HEAD.fit(Context(cells, known)).values(asked)


def test_gp_equals_the_textbook_formula() -> None:
    """Means and variances equal K* (K + N)^-1 y and k - K* (K + N)^-1 K*', written out pair by pair."""
    cells = [cell("a b", 3, 4), cell("a c", 1, 4, version=2), cell("d", 0, 2, policy="n"), cell("a b", 2, 2, version=5)]
    asked = question("a b", "c d", "new", version=3)
    shape = Shape()

    def k(one: tuple[str, str, int], other: tuple[str, str, int]) -> float:
        (text1, pol1, v1), (text2, pol2, v2) = one, other
        same_policy = float(pol1 == pol2) * math.exp(-abs(v1 - v2) / shape.decay_versions)
        s = shape.policy_similarity + (1 - shape.policy_similarity) * same_policy
        squared = float(np.square(embed(text1).astype(float) - embed(text2).astype(float)).sum())
        text = shape.text_share * math.exp(-squared / (2 * shape.length_scale**2))
        own = (1 - shape.text_share) * (text1 == text2)
        return s * (shape.level + shape.amplitude * (text + own))

    triples = [(c.key, c.policy, c.version) for c in cells]
    targets = [(text, "m", 3) for text in ("a b", "c d", "new")]
    rates = np.array([c.successes / c.trials for c in cells])
    trials = np.array([c.trials for c in cells])
    outcome_variance = (3 / 4 * 1 / 4 * 4 / 3 + 1 / 4 * 3 / 4 * 4 / 3 + 0 + 0 + 4 / 8) / (4 + 4)
    mean = (rates.sum() + 2) / (4 + 4)
    gram = np.array([[k(p, q) for q in triples] for p in triples]) + np.diag(outcome_variance / trials)
    cross = np.array([[k(p, q) for q in triples] for p in targets])
    means = mean + cross @ np.linalg.solve(gram, rates - mean)
    variances = shape.variance - np.einsum("ij,ji->i", cross, np.linalg.solve(gram, cross.T))
    answer = fit_and_ask(cells, asked)
    assert answer.values == pytest.approx(np.clip(means, 0, 1), abs=1e-5)
    assert answer.standard_errors == pytest.approx(np.sqrt(variances), abs=1e-5)


def test_gp_without_evidence_is_its_prior() -> None:
    """No cells: 1/2 for every prompt, with the kernel's own variance."""
    answer = fit_and_ask([], question("a", "b"))
    assert answer.values.tolist() == [0.5, 0.5]
    assert answer.standard_errors == pytest.approx([math.sqrt(Shape().variance)] * 2)


@given(st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_gp_does_not_depend_on_the_order_of_evidence(shuffler: random.Random) -> None:
    """The same cells in any order give the same bits, hyperparameters included."""
    rng = np.random.default_rng(0)
    cells = [
        cell(f"w{i % 23} x{i % 7}", float(rng.integers(0, 5)), 4, version=i // 23, policy="mn"[i % 2])
        for i in range(90)
    ]
    asked = question("w1 x1", "w2 x9", "fresh", version=2)
    expected = fit_and_ask(cells, asked)
    shuffler.shuffle(cells)
    answer = fit_and_ask(cells, asked)
    assert np.array_equal(answer.values, expected.values)
    assert np.array_equal(answer.standard_errors, expected.standard_errors)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "a b", "c d", "long text of words"]),
            st.integers(0, 10),
            st.integers(0, 2**31 - 1),
            st.sampled_from("mn"),
            st.booleans(),
        ),
        max_size=60,
    )
)
@settings(max_examples=50, deadline=None)
def test_every_head_answers_within_bounds(rows: list[tuple[str, int, int, str, bool]]) -> None:
    """Values lie in [0, 1] and standard errors in [0, 1/2], whatever the evidence, known texts or not."""
    cells = [cell(text, s, 10, version=v, policy=p, known=known) for text, s, v, p, known in rows]
    asked = question("a", "c d", "unseen", version=5, cells=[c for c in cells if c.policy == "m"])
    for answer in (fit_and_ask(cells, asked), *(control.values(asked) for control in CONTROLS.values())):
        assert ((answer.values >= 0) & (answer.values <= 1)).all()
        assert ((answer.standard_errors >= 0) & (answer.standard_errors <= 0.5)).all()


def test_more_trials_count_more() -> None:
    """A prompt with 10 of 10 is believed more, and with a smaller error, than one with 1 of 1."""
    cells = [cell("much", 10, 10), cell("little", 1, 1), *(cell(f"other {i}", i % 5, 4) for i in range(40))]
    answer = fit_and_ask(cells, question("much", "little"))
    assert answer.values[0] > answer.values[1] + 0.05
    assert answer.standard_errors[0] < answer.standard_errors[1]


def test_own_policy_counts_more_than_another_and_near_versions_more_than_far_ones() -> None:
    """The same success moves a value most at its own version, less far away, least from another policy."""
    others = [cell(f"other {i}", i % 5, 4) for i in range(40)]
    asked = question("p", version=100)
    near, far, foreign = (
        fit_and_ask([cell("p", 4, 4, version=version, policy=policy), *others], asked).values[0]
        for version, policy in ((100, "m"), (0, "m"), (100, "n"))
    )
    nothing = fit_and_ask(others, asked).values[0]
    assert near > far > foreign > nothing


def test_alike_texts_share_evidence() -> None:
    """A new prompt that shares words with solved ones gets a higher value than one that shares words with failed ones."""
    cells = [cell(f"easy sum {i}", 4, 4) for i in range(20)] + [cell(f"hard proof {i}", 0, 4) for i in range(20)]
    answer = fit_and_ask(cells, question("easy sum x", "hard proof y"))
    assert answer.values[0] > 0.7
    assert answer.values[1] < 0.3


def test_a_prompt_without_features_is_like_itself_only() -> None:
    """Without text, its own outcomes move a prompt, and no other prompt's text does."""
    cells = [cell("a b", 4, 4, known=False), *(cell(f"other {i}", i % 5, 4) for i in range(40))]
    answer = fit_and_ask(cells, question("a b", "a c", known=False))
    assert answer.values[0] > answer.values[1] + 0.1
    assert answer.standard_errors[0] < answer.standard_errors[1]


def test_own_history_beyond_the_bound_on_rows_still_counts() -> None:
    """A fit without a prompt's old rows, given them with the question, comes near the fit that has them."""
    rng = np.random.default_rng(4)
    old = [cell("p", 8, 8, version=10)]
    newer = [cell(f"w{i}", float(rng.integers(0, 9)), 8, version=30) for i in range(40)]
    asked = question("p", version=30)
    told = question("p", version=30, cells=old)
    without, whole = fit_and_ask(newer, asked), fit_and_ask(old + newer, told)
    bounded = fit_and_ask(newer, told)
    assert bounded.values[0] == pytest.approx(whole.values[0], abs=0.03)
    assert bounded.standard_errors[0] == pytest.approx(whole.standard_errors[0], abs=0.03)
    assert whole.values[0] > without.values[0] + 0.2


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_the_kernel_is_positive_semidefinite(seed: int) -> None:
    """Over random triples, some without features, no eigenvalue is below rounding."""
    rng = np.random.default_rng(seed)
    n = 40
    prompts = rng.integers(0, 12, n)
    vectors = rng.normal(size=(12, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    known = (np.arange(12) % 3 > 0)[prompts]
    points = Points(
        np.where(known[:, None], vectors[prompts], np.float32(0)),
        known,
        prompts.astype(np.int32),
        rng.integers(0, 3, n).astype(np.int32),
        rng.integers(0, 50, n).astype(np.float32),
    )
    matrix = Pairs.of(points, points).covariance(Shape(decay_versions=10.0)).astype(np.float64)
    assert np.linalg.eigvalsh(matrix).min() > -1e-5
    assert np.diag(matrix) == pytest.approx(Shape().variance, abs=1e-6)


def test_hyperparameters_follow_clear_evidence_and_stay_without_it() -> None:
    """A task whose prompts hardly differ gets a small amplitude; few rows leave every default."""
    rng = np.random.default_rng(1)
    cells = [cell(f"w{i}", float(rng.binomial(32, 0.6)), 32) for i in range(200)]
    table = Table.of(Context(cells, features(*(c.key for c in cells))), WIDTH)
    assert gp_module.choose(table).amplitude < Shape().amplitude
    few = Table.of(Context(cells[:20], {}), WIDTH)
    assert gp_module.choose(few) == Shape()


def test_gp_standard_errors_are_calibrated_on_data_from_its_own_law() -> None:
    """On rates drawn from the kernel itself, 68% and 95% intervals hold the truth about as often as they say."""
    rng = np.random.default_rng(2)
    texts = [f"a{i % 10} b{i % 13} c{i}" for i in range(400)]
    count = len(texts)
    points = Table.of(Context([cell(text, 0, 1) for text in texts], features(*texts)), WIDTH)
    order = sorted(texts, key=digest)
    law = Shape(amplitude=0.02, level=0.005)
    covariance = Pairs.of(points.points, points.points).covariance(law).astype(np.float64)
    truth = np.clip(0.5 + np.linalg.cholesky(covariance + 1e-9 * np.eye(count)) @ rng.normal(size=count), 0.02, 0.98)
    cells = [cell(text, float(rng.binomial(8, rate)), 8) for text, rate in zip(order[:300], truth, strict=False)]
    answer = fit_and_ask(cells, question(*order[300:]))
    scores = np.abs(answer.values - truth[300:]) / answer.standard_errors
    assert 0.55 < (scores < 1).mean() < 0.85
    assert (scores < 1.96).mean() > 0.88


def test_a_matrix_that_cannot_be_factored_is_an_arithmetic_error() -> None:
    """The head says so by the one error that the service catches."""
    cells = [cell("a", 1, 2), cell("b", 1, 2)]
    table = Table.of(Context(cells, features("a", "b")), WIDTH)
    with pytest.raises(ArithmeticError, match="not positive definite"):
        gp_module._solve(table, Pairs.of(table.points, table.points), Shape(amplitude=-1.0))


def test_constant_knows_nothing() -> None:
    """1/2, with the standard deviation of Beta(1/2, 1/2)."""
    answer = CONTROLS["constant"].values(question("a"))
    assert answer.values.tolist() == [0.5]
    assert answer.standard_errors == pytest.approx([math.sqrt(1 / 8)])


def test_running_mean_discounts_by_distance_of_versions() -> None:
    """At version 10, rows of version 10 count double those of version 5 (one half-life), plus the prior rows at 1/2."""
    cells = [cell("a", 4, 4, version=10), cell("b", 2, 4, version=10), cell("c", 0, 4, version=5)]
    answer = CONTROLS["running_mean"].values(question("a", "z", version=10, cells=cells))
    expected = (1 + 0.5 + 0.5 * 0 + 2 * 0.5) / (2 + 0.5 + 2)
    assert answer.values == pytest.approx([expected, expected])


def test_running_mean_error_is_the_spread_of_prompts_without_outcome_noise() -> None:
    """With many prompts at 0.2 or 0.8 its error is 0.3; with all at 0.5 it is near 0, though the rates vary."""
    rng = np.random.default_rng(3)
    mixed = [cell(f"p{i}", float(rng.binomial(10, (0.2, 0.8)[i % 2])), 10) for i in range(2000)]
    equal = [cell(f"p{i}", float(rng.binomial(10, 0.5)), 10) for i in range(2000)]
    for cells, expected in ((mixed, 0.3), (equal, 0.0)):
        answer = CONTROLS["running_mean"].values(question("new", cells=cells))
        assert answer.standard_errors[0] == pytest.approx(expected, abs=0.05)


def test_history_shrinks_to_the_running_mean() -> None:
    """A prompt never seen gets the running mean and spread; one often seen gets its own rate; a far past counts less."""
    others = [cell(f"p{i}", (0, 1, 3, 4)[i % 4], 4) for i in range(400)]
    cells = [*others, cell("often", 64, 64), cell("past", 4, 4, version=40)]
    asked = question("new", "often", "past", version=0, cells=cells)
    running = CONTROLS["running_mean"].values(asked)
    answer = CONTROLS["history"].values(asked)
    assert answer.values[0] == pytest.approx(running.values[0])
    assert answer.values[1] > 0.9
    assert answer.standard_errors[1] < 0.05
    recent = CONTROLS["history"].values(question("past", version=40, cells=cells)).values[0]
    assert answer.values[0] < answer.values[2] < recent
