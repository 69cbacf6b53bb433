"""What a warm start brings to a run's first groups, and what a measured dispersion brings to partial credit.

Both are parts of ours that runs of a thousand groups with outcomes 0 and 1 cannot show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.estimators import simulate
from benchmarks.estimators.arena import COLD_START, SMALL_BATCH, Plan, family_of
from benchmarks.estimators.bounds import bayes
from benchmarks.estimators.methods import EMPIRICAL_BAYES, fixed
from benchmarks.estimators.priors import PRIORS, Material, Prior
from benchmarks.estimators.simulate import Final
from benchmarks.estimators.stream import Length, Stream
from benchmarks.estimators.variants import OURS
from rollout_budget import baselines
from rollout_budget.decisions import PAPER_RANGE
from rollout_budget.groups import Groups
from rollout_budget.outcomes import FloatArray
from rollout_budget.reliability import Reliability

SIZES = (2, 4)
CREDIT_TESTS = (3, 10, 30)
"""Tests that a partly solved task is scored by: an outcome is the share passed, each test by itself."""
CREDIT_BATCHES, CREDIT_GROUPS = 40, 128
SHORT = Length(batches=COLD_START // SMALL_BATCH, size=SMALL_BATCH, warm_up=0)


def warm_starts(plan: Plan) -> str:
    """Return the squared error of values of a run's first `COLD_START` groups, {-1, +1} scale, by prior and k."""
    heads = [f"{kind}, k = {k}" for k in SIZES for kind in ("cold", "warm", "Bayes-optimal")]
    lines = [f"| outcomes | prior | {' | '.join(heads)} |", "|" + "---|" * (2 + len(heads))]
    for name, prior_name in plan.cases():
        errors = np.array([list(_first_groups(plan, name, prior_name, seed)) for seed in range(plan.seeds)])
        cells = [f"{mean:.3f} ± {spread:.3f}" for mean, spread in zip(errors.mean(0), errors.std(0), strict=True)]
        lines.append(f"| {name} | {prior_name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _first_groups(plan: Plan, name: str, prior_name: str, seed: int) -> Iterator[float]:
    """Yield cold, warm and best error for each k; the warm run starts from one over other groups of the same prior."""
    family = family_of(plan, name, seed)
    prior: Prior = PRIORS[prior_name](Material(family, np.random.default_rng([seed, 1]), plan.features))
    before = Stream.of(family, prior, np.random.default_rng([seed, 5]), plan.real)
    short = Stream.of(family, prior, np.random.default_rng([seed, 6]), SHORT)
    for k in SIZES:
        learned = simulate.Learned(before).before(OURS, k)[-1]
        warm = replace(OURS, name="warm", start=learned.handed_on)
        for variant in (OURS, warm):
            method = replace(fixed(EMPIRICAL_BAYES, "empirical_bayes", k), variant=variant)
            yield _error(simulate.run(method, simulate.Learned(short)), short)
        yield _error(bayes(family, prior, short, k), short)


def _error(final: Final, stream: Stream) -> float:
    return PAPER_RANGE.squared_from_unit(float(np.mean((final.value - stream.truth) ** 2)))


def partial_credit(seeds: int) -> str:
    """Return squared errors at k = 4 for shares of tests passed; rates uniform, priors miss by N(0, .15)."""
    names = ("group mean", "empirical Bayes, every outcome a coin flip", "empirical Bayes")
    lines = [f"| tests | {' | '.join(names)} | dispersion found (true) |", "|" + "---|" * (2 + len(names))]
    for tests in CREDIT_TESTS:
        found = np.array([_credit(seed, tests) for seed in range(seeds)])
        cells = [f"{mean:.4f} ± {spread:.4f}" for mean, spread in zip(found.mean(0), found.std(0), strict=True)][:3]
        lines.append(f"| {tests} | {' | '.join(cells)} | {found[:, 3].mean():.3f} ({1 / tests:.3f}) |")
    return "\n".join(lines)


def _credit(seed: int, tests: int) -> tuple[float, float, float, float]:
    rng, state = np.random.default_rng([seed, 7]), Reliability()
    errors: list[list[float]] = []
    for _ in range(CREDIT_BATCHES):
        truth = rng.random(CREDIT_GROUPS)
        outcomes = rng.binomial(tests, truth[:, None], (CREDIT_GROUPS, 4)) / tests
        prior = np.clip(truth + rng.normal(0, 0.15, CREDIT_GROUPS), 0, 1)
        groups = Groups.of(prior, outcomes.tolist())
        ours = baselines.get("empirical_bayes")(groups, state).value
        errors.append([_missed(value, truth) for value in (groups.means, _flips(groups, state), ours)])
        state = state.update(groups)
    mean, flips, ours_error = np.mean(errors[len(errors) // 4 :], axis=0).tolist()
    return mean, flips, ours_error, state.dispersion


def _flips(groups: Groups, state: Reliability) -> FloatArray:
    """Return the values of the same law where outcomes count as coin flips."""
    law = state.learned
    assert law is not None  # noqa: S101  a run that learns
    flips = replace(state, learned=replace(law, dispersion=1.0))
    return baselines.get("empirical_bayes")(groups, flips).value


def _missed(value: FloatArray, truth: FloatArray) -> float:
    return PAPER_RANGE.squared_from_unit(float(np.mean((value - truth) ** 2)))
