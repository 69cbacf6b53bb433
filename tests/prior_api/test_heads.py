"""The heads' mathematics, against direct formulas, limits and the order of evidence."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from rollout_budget.outcomes import FloatArray
from rollout_budget.wire import EvidenceRow
from services.prior_api.heads import CONTROLS, Context, GaussianProcess, Predictions, Question
from services.prior_api.heads import gp as gp_module
from services.prior_api.heads.base import Float32Array
from services.prior_api.heads.kernel import Pairs, Points, Shape
from services.prior_api.heads.link import Law, law_of, observe, rates
from services.prior_api.heads.metric import Metric
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


GRID = np.linspace(-14, 14, 28_001)
"""Fine enough to integrate over latents without quadrature."""


def on_grid(successes: float, trials: float, mean: float, variance: float) -> tuple[float, float]:
    """Return mean and variance of a latent after a count, summed over a grid."""
    logs = successes * norm.logcdf(GRID) + (trials - successes) * norm.logcdf(-GRID)
    logs += norm.logpdf(GRID, mean, math.sqrt(variance))
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    first = float(weights @ GRID)
    return first, float(weights @ np.square(GRID - first))


def rate_on_grid(mean: float, variance: float) -> tuple[float, float]:
    """Return mean and standard deviation of Phi(latent)."""
    weights = norm.pdf(GRID, mean, math.sqrt(variance))
    weights /= weights.sum()
    rates = norm.cdf(GRID)
    first = float(weights @ rates)
    return first, math.sqrt(float(weights @ np.square(rates - first)))


def test_gp_equals_the_textbook_formula() -> None:
    """Values are K* (K + N)^-1 y and k - K* (K + N)^-1 K*' on latents, brought back to rates, written out pair by pair."""
    cells = [cell("a b", 3, 4), cell("a c", 1, 4, version=2), cell("d", 0, 2, policy="n"), cell("a b", 2, 2, version=5)]
    asked = question("a b", "c d", "new", version=3)
    shape = Shape(surface_share=0.0)
    mean, variance = 0.0, 1.0
    for _ in range(12):
        after = [on_grid(c.successes, c.trials, mean, variance) for c in cells]
        mean = sum(m for m, _ in after) / 8
        variance = (sum(v + (m - mean) ** 2 for m, v in after) + 4 * (1 + mean**2)) / 8
    after = [on_grid(c.successes, c.trials, mean, variance) for c in cells]
    precisions = np.array([1 / v - 1 / variance for _, v in after])
    observed = np.array([m / v - mean / variance for m, v in after]) / precisions
    centre = sum(embed(text).astype(float) for text in ("a b", "a c", "d")) / (3 + 64)

    def place(text: str) -> FloatArray:
        off: FloatArray = embed(text).astype(np.float64) - centre
        return off / float(np.linalg.norm(off))

    def k(one: tuple[str, str, int], other: tuple[str, str, int]) -> float:
        (text1, pol1, v1), (text2, pol2, v2) = one, other
        fading = float(pol1 == pol2) * math.exp(-abs(v1 - v2) / shape.decay_versions)
        prompt = shape.policy_similarity + (1 - shape.policy_similarity) * fading
        level = shape.level_similarity + (1 - shape.level_similarity) * fading
        squared = float(np.square(place(text1) - place(text2)).sum())
        text = (1 - shape.own_share) * math.exp(-squared / (2 * shape.length_scale**2))
        own = shape.own_share * (text1 == text2)
        return variance * (level * shape.level + prompt * shape.amplitude * (text + own))

    triples = [(c.key, c.policy, c.version) for c in cells]
    targets = [(text, "m", 3) for text in ("a b", "c d", "new")]
    gram = np.array([[k(p, q) for q in triples] for p in triples]) + np.diag(1 / precisions)
    cross = np.array([[k(p, q) for q in triples] for p in targets])
    means = mean + cross @ np.linalg.solve(gram, observed - mean)
    variances = variance * shape.variance - np.einsum("ij,ji->i", cross, np.linalg.solve(gram, cross.T))
    expected = [rate_on_grid(m, v) for m, v in zip(means, variances, strict=True)]
    answer = fit_and_ask(cells, asked)
    assert answer.values == pytest.approx([value for value, _ in expected], abs=1e-5)
    assert answer.standard_errors == pytest.approx([error for _, error in expected], abs=1e-5)


def test_gp_without_evidence_is_its_prior() -> None:
    """No cells: 1/2 for every prompt, with the kernel's own variance."""
    answer = fit_and_ask([], question("a", "b"))
    assert answer.values == pytest.approx([0.5, 0.5])
    assert answer.standard_errors == pytest.approx([rate_on_grid(0.0, Shape().variance)[1]] * 2, abs=1e-6)


@given(st.integers(0, 3000), st.floats(0, 1), st.floats(-2, 2), st.floats(0.1, 9))
@example(1, 0.0, 0.0, 1.0)
@example(3000, 1.0, -2.0, 0.1)
@settings(max_examples=60, deadline=None)
def test_an_observation_does_what_the_count_does(trials: int, share: float, mean: float, variance: float) -> None:
    """Normal law and observation together have the mean and variance that law and count have, summed over a grid."""
    trials += 1
    successes = share * trials
    observed = observe(np.array([successes]), np.array([float(trials)]), Law(mean, variance))
    precision = 1 / variance + 1 / observed.noise[0]
    combined = (mean / variance + observed.values[0] / observed.noise[0]) / precision
    expected = on_grid(successes, trials, mean, variance)
    assert combined == pytest.approx(expected[0], abs=0.01)
    assert 1 / precision == pytest.approx(expected[1], rel=0.02)


@given(st.floats(-4, 4), st.floats(0.001, 4))
@settings(max_examples=60, deadline=None)
def test_rates_of_latents_in_closed_form(mean: float, variance: float) -> None:
    """Owen's formulas give what summing over a grid gives."""
    first, second = rates(np.array([mean]), np.array([variance]))
    expected = rate_on_grid(mean, variance)
    assert first[0] == pytest.approx(expected[0], abs=1e-6)
    assert math.sqrt(second[0]) == pytest.approx(expected[1], abs=1e-5)


def test_the_law_of_latents_is_found() -> None:
    """From counts whose latents were drawn from N(0.4, 2.25), mean and variance come back."""
    rng = np.random.default_rng(5)
    rate = norm.cdf(rng.normal(0.4, 1.5, 4000))
    law = law_of(rng.binomial(10, rate).astype(float), np.full(4000, 10.0))
    assert law.mean == pytest.approx(0.4, abs=0.1)
    assert law.variance == pytest.approx(2.25, abs=0.25)


def surfaced(text: str, kind: float, scale: float = 1.0) -> Float32Array:
    """Return features whose unit vector is the text's alone, followed by one number on its surface and one constant."""
    own = np.random.default_rng(zlib.crc32(text.encode())).normal(size=WIDTH)
    return np.array([*(own / np.linalg.norm(own)), scale * kind, scale], dtype=np.float32)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_alike_surfaces_share_evidence(scale: float) -> None:
    """Of prompts that mean nothing alike, those that look like the solved ones get higher values, on any scale."""
    names = [f"p{i}" for i in range(60)]
    cells = [cell(name, (0, 8)[i % 2], 8) for i, name in enumerate(names)]
    known = {digest(name): surfaced(name, i % 2, scale) for i, name in enumerate(names)}
    asked = dataclasses.replace(
        question("x", "y"), features={digest("x"): surfaced("x", 0, scale), digest("y"): surfaced("y", 1, scale)}
    )
    answer = GaussianProcess(WIDTH, surface=2).fit(Context(cells, known)).values(asked)
    assert answer.values[0] < 0.35
    assert answer.values[1] > 0.65


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_surfaces_are_two_apart_squared_whatever_their_scales(seed: int) -> None:
    """The mean squared distance is 2, and scaling or repeating a number hardly changes who is near whom."""
    rng = np.random.default_rng(seed)
    plain = rng.normal(size=(80, 3)).astype(np.float32)
    scaled = plain * np.array([1, 10, 100], dtype=np.float32) + 7
    places = Metric.of(np.zeros((80, 4), np.float32), plain).surface(plain)
    others = Metric.of(np.zeros((80, 4), np.float32), scaled).surface(scaled)
    one, other = (np.square(p[:, None] - p[None]).sum(axis=2) for p in (places, others))
    assert one.sum() / (80 * 79) == pytest.approx(2, abs=0.12)
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99


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
        np.where(known[:, None], vectors[prompts, :3], np.float32(0)),
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
    assert gp_module.choose(few) == Shape(surface_share=0.0)


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
        gp_module._solve(table, Pairs.of(table.points, table.points), Shape(amplitude=-100.0))


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
