"""The benchmarks run, agree with their yardsticks, and reproduce the reference figures on real outcomes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.decisions import __main__ as decisions
from benchmarks.decisions import reference as loop
from benchmarks.estimators import __main__ as estimators
from benchmarks.estimators import data, report, simulate
from benchmarks.estimators.methods import METHODS
from benchmarks.estimators.reference import REFERENCE
from rollout_budget.decisions import next_wave
from tests.paths import outcomes_folder

CHEAP = ("truth + N(0, .15)", "constant")
"""Priors that need no sentence features."""
WITH_REFERENCE = tuple(method for method in METHODS if method.curve in REFERENCE["constant"])
NOISE = 0.10
"""Share of a reference figure that two seeds may be off by: one run scatters by 2 to 4 in a hundred, its split by 2."""


def test_the_plain_loop_gives_the_same_decisions() -> None:
    """Baselines, wishes and shares of thousands of unequal groups equal those of a loop written without the package."""
    groups = decisions.make(5000, seed=1)
    cap = int(next_wave(decisions.RULES, groups, decisions.KNOWN).wanted.sum()) // 3
    settings = loop.Settings(decisions.KNOWN.strength, decisions.RULES.price, decisions.RULES.k_max)
    outcomes = [part.tolist() for part in groups.split(groups.outcomes)]
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


def test_targets_never_serve_as_support() -> None:
    """1,536 rows to learn from, 1,728 others to be scored on, those of `train` among them."""
    rows = data.load(outcomes_folder())
    split = data.split(rows, seed=0)
    assert (split.support.size, split.targets.size) == (1536, 1728)
    assert not set(split.support) & set(split.targets)
    assert rows.context[split.support].all()
    assert (~rows.context[split.targets]).sum() == 192


def test_rows_reproduce_the_reference(tmp_path: Path) -> None:
    """Every reference figure of the priors that need no features comes out again, within noise."""
    results = estimators.measure(outcomes_folder(), tmp_path, names=CHEAP, seeds=2, methods=WITH_REFERENCE)
    compared = list(report.comparisons(results))
    assert len(compared) == 2 * (1 + 4 + 3 + 1 + 4 + 3 + 3)
    for row in compared:
        close = pytest.approx(row.reference, rel=NOISE, abs=report.ROUNDING)
        assert row.ours.mean() == close, f"{row.prior}, {row.curve} at {row.rollouts}"
    look_ahead = results.curve("constant", "paper look-ahead")[0].mean()
    assert look_ahead == pytest.approx(9.9, abs=0.3)


def test_the_report_is_written(tmp_path: Path) -> None:
    """A short run ends with a table of all points and a plot."""
    length = simulate.Length(batches=3, size=16, warm_up=1)
    results = estimators.measure(outcomes_folder(), tmp_path, names=CHEAP, seeds=1, length=length)
    report.plot(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    assert report.all_points(results).count("\n") == 1 + 2 * len(METHODS)
    assert "| constant | paper look-ahead |" in report.table(list(report.comparisons(results)))
