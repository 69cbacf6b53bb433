"""The benchmarks run, agree with their yardsticks, and reproduce the reference figures on real outcomes."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.decisions import __main__ as decisions
from benchmarks.decisions import reference as loop
from benchmarks.estimators import __main__ as command
from benchmarks.estimators import (
    arena,
    bounds,
    data,
    documents,
    families,
    priors,
    reference,
    report,
    scores,
    simulate,
    targets,
)
from benchmarks.estimators.methods import METHODS, REFERENCE_METHODS, Method, fixed
from benchmarks.estimators.stream import MOST_ROLLOUTS, Length, Stream
from rollout_budget.decisions import next_wave
from tests.paths import outcomes_folder

CHEAP = ("truth + N(0, .15)", "constant")
"""Priors that need no sentence features."""
NOISE = 0.10
"""Share of a reference figure that two seeds may be off by: one run scatters by 2 to 4 in a hundred, its split by 2."""
SHORT = Length(batches=4, size=64, warm_up=1)


def test_the_plain_loop_gives_the_same_decisions() -> None:
    """Baselines, wishes and shares of thousands of unequal groups equal those of a loop written without the package."""
    groups = decisions.make(5000, seed=1)
    cap = int(next_wave(decisions.RULES, groups, decisions.KNOWN).wanted.sum()) // 3
    settings = loop.Settings(decisions.KNOWN.strength, decisions.RULES.price, decisions.RULES.k_max)
    outcomes = groups.split(groups.outcomes)
    plan, granted = decisions.decide(groups, cap)
    decisions.check(plan, granted, loop.decide(groups.prior.tolist(), outcomes, settings, cap))
    assert granted.sum() == cap


def test_a_beta_law_is_found_again() -> None:
    """Counts drawn from Beta(0.5, 2) are fitted with about that law."""
    rng = np.random.default_rng(0)
    counts = rng.binomial(data.TRIALS, rng.beta(0.5, 2.0, 4000)).astype(np.float64)
    assert data.fit_beta(counts) == pytest.approx((0.5, 2.0), rel=0.1)


def test_scores_that_are_no_mean_of_ten_outcomes_are_refused(tmp_path: Path) -> None:
    """A folder with other scores is an error, not a rounded guess."""
    row = json.dumps({"id": 1, "score": 0.15, "model": "m", "step": 1, "dataset": "d"})
    for name in ("context", "train"):
        (tmp_path / f"{name}.jsonl").write_text(row, encoding="utf-8")
    with pytest.raises(ValueError, match="mean of 10 outcomes"):
        data.load(tmp_path)


def test_outcomes_that_cannot_be_fetched_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without network the arena says so and runs on synthetic families; a folder that is there is not fetched again."""
    monkeypatch.setattr(data, "SOURCE", "http://127.0.0.1:9/none")
    with pytest.raises(data.Unreachable):
        data.fetch(tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert command.outcomes(None, tmp_path) is None
    assert "synthetic only" in capsys.readouterr().out
    for name in data.FILES:
        (tmp_path / name).write_text("", encoding="utf-8")
    assert data.fetch(tmp_path) == tmp_path


def test_fetched_outcomes_have_the_names_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file of the source lands under the name that a folder of outcomes has it by."""
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=request.url.path.rsplit("/", 1)[-1]))
    client = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **settings: client(transport=transport, **settings))
    folder = data.fetch(tmp_path / "data")
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == dict(data.FILES)


def test_targets_never_serve_as_support() -> None:
    """1,536 rows to learn from, 1,728 others to be scored on, those of `train` among them."""
    rows = data.load(outcomes_folder())
    split = data.split(rows, seed=0)
    assert (split.support.size, split.targets.size) == (1536, 1728)
    assert not set(split.support) & set(split.targets)
    assert rows.context[split.support].all()
    assert (~rows.context[split.targets]).sum() == 192


def test_rows_reproduce_the_reference() -> None:
    """Every reference figure of the priors that need no features comes out again, within noise."""
    plan = arena.Plan(
        data.load(outcomes_folder()), dict, [families.REAL], CHEAP, REFERENCE_METHODS, seeds=2, cold=False
    )
    compared = list(reference.comparisons(arena.measure(plan)))
    assert len(compared) == 2 * (1 + 4 + 3 + 1 + 4 + 3)
    for row in compared:
        close = pytest.approx(row.reference, rel=NOISE, abs=reference.ROUNDING)
        assert row.ours.mean() == close, f"{row.prior}, {row.curve} at {row.rollouts}"
    look_ahead = next(row for row in compared if (row.prior, row.curve) == ("constant", "V0.5 look-ahead"))
    assert look_ahead.rollouts == pytest.approx(9.9, abs=0.3)


def made(name: str, family: str = "uniform", length: Length = SHORT) -> tuple[families.Family, priors.Prior, Stream]:
    drawn = families.synthetic(family, 0)
    prior = priors.PRIORS[name](priors.Material(drawn, np.random.default_rng(1), dict))
    return drawn, prior, Stream.of(drawn, prior, np.random.default_rng(2), length)


@pytest.mark.parametrize("name", arena.SYNTHETIC_PRIORS)
def test_the_stated_law_of_a_prior_is_its_law(name: str) -> None:
    """Rates given V have the mean that the likelihood says, at every third of V: the bounds rest on it."""
    family, prior, _ = made(name)
    for values, likelihood in zip(prior.values, prior.likelihood, strict=True):
        law = likelihood * family.atoms.weights
        means = law @ family.atoms.rates / law.sum(axis=1)
        for part in np.array_split(np.argsort(values), 3):
            assert means[part].mean() == pytest.approx(family.truth[part].mean(), abs=0.035)


@pytest.mark.parametrize("name", ["truth + N(0, .25)", "constant", "anti-correlated", "right for half"])
def test_no_estimator_beats_the_bayes_optimal_one(name: str) -> None:
    """Nor does any allocation of equal size beat the oracle's, beyond what chance allows in a short run."""
    family, prior, stream = made(name, length=Length(12, 256, 1))
    learned = simulate.Learned(stream)
    errors = bounds.expected_errors(family, prior)
    for k in (1, 4):
        best = scores.score(bounds.bayes(family, prior, stream, k), stream).error
        assert best == pytest.approx(4 * errors[:, k].mean(), rel=0.1)
        assert bounds.oracle(errors, k) <= 4 * errors[:, k].mean() + 1e-12
        for estimator in ("leave_one_out", "v05", "james_stein", "ebpo", "empirical_bayes"):
            found = scores.score(simulate.run(fixed("x", estimator, k), learned), stream)
            assert found.error > 0.97 * best


def test_the_oracle_hands_out_the_best_total() -> None:
    """Against every division of totals that finish a steep step, on errors that fall late for one target."""
    errors = np.full((2, MOST_ROLLOUTS + 1), 0.0)
    errors[0] = np.linspace(0.2, 0.04, MOST_ROLLOUTS + 1)
    errors[1, :4] = 0.25
    for k in (1, 3, 5):
        best = min(errors[0, n] + errors[1, 2 * k - n] for n in range(1, 2 * k))
        assert bounds.oracle(errors, k) == pytest.approx(4 * best / 2)


def score_of(method: Method, stream: Stream) -> scores.Scores:
    return scores.score(simulate.run(method, simulate.Learned(stream)), stream)


def test_scores_at_known_numbers() -> None:
    """Leave-one-out at k = 2, rates uniform on [0, 1]: each figure has a closed form."""
    _, _, stream = made("constant", length=Length(40, 512, 0))
    found = score_of(fixed("x", "leave_one_out", 2), stream)
    assert found.rollouts == 2.0
    assert found.error == pytest.approx(4 / 12, rel=0.03)
    assert found.sample_error == pytest.approx(4 / 6, rel=0.03)
    assert found.silent == pytest.approx(2 / 3, rel=0.03)
    assert found.gradient_variance == pytest.approx(1 / 15, rel=0.05)
    assert found.bias_sum == pytest.approx(0.0, abs=0.04)
    shrunk = score_of(fixed("x", "group_mean", 2), stream)
    assert shrunk.bias_sum == pytest.approx(-0.5, abs=0.03)


def test_refilled_groups_cost_their_rollouts() -> None:
    """DAPO at k = 2 on uniform rates: a third of the groups has signal, so a kept group costs 6 rollouts."""
    _, _, stream = made("constant", length=Length(40, 512, 0))
    dapo = next(method for method in METHODS if (method.curve, method.label) == ("DAPO refill", "k_init = 2"))
    found = score_of(dapo, stream)
    assert found.rollouts == pytest.approx(6.0, rel=0.03)
    assert found.silent == pytest.approx(2 / 3, rel=0.03)


def test_tables_replace_their_sections_and_nothing_else(tmp_path: Path) -> None:
    """Prose stays; a section that is not there is an error, and then nothing is written."""
    page = tmp_path / "page.md"
    page.write_text(
        "prose\n<!-- begin a -->\nold\n<!-- end a -->\nmore\n<!-- begin b -->\n<!-- end b -->\n", encoding="utf-8"
    )
    documents.write(page, {"a": "| new \\1 |", "b": "other"})
    written = page.read_text(encoding="utf-8")
    assert written.startswith(
        "prose\n<!-- begin a -->\n\n| new \\1 |\n\n<!-- end a -->\nmore\n<!-- begin b -->\n\nother\n"
    )
    with pytest.raises(documents.NoSection, match="'c'"):
        documents.write(page, {"a": "lost", "c": "nowhere"})
    assert page.read_text(encoding="utf-8") == written


def test_all_methods_meet_the_same_outcomes() -> None:
    """With equal seeds prompts and outcomes do not depend on the prior."""
    one, other = made("constant")[2], made("anti-correlated")[2]
    np.testing.assert_array_equal(one.outcomes, other.outcomes)
    np.testing.assert_array_equal(one.truth, other.truth)
    assert (one.prior != other.prior).any()


def test_the_arena_prints_its_targets_and_every_method(tmp_path: Path) -> None:
    """A short run on two families ends with tables, JSON and a plot; a constant stays at or above leave-one-out."""
    plan = arena.Plan(None, dict, ["uniform", "all hard"], ("truth + N(0, .25)", "constant"), METHODS, 1, SHORT, SHORT)
    said: list[str] = []
    results = arena.measure(plan, said.append)
    assert len(said) == 4
    points = report.all_points(results)
    for method in METHODS:
        assert f"| uniform | constant | {method.curve} | {method.label} |" in points
    checks = list(targets.checks(results))
    assert {check.target for check in checks} == {"T3", targets.ALONE}
    assert "| T3 |" in command.summary(results)["targets"]
    assert "| all hard | constant" in report.overview(results)
    assert "| Knapsack RL |" in report.case_table(results, ("uniform", "constant"))
    assert json.loads(command.as_json(results))["points"]
    report.plot(results, priors.REFERENCE_PRIORS, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
