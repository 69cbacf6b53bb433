"""All methods on all families, priors and seeds: the loop of the benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.estimators import bounds, data, families, scores, simulate
from benchmarks.estimators.families import Family
from benchmarks.estimators.methods import EMPIRICAL_BAYES, LEAVE_ONE_OUT, SIZES, Method, fixed
from benchmarks.estimators.priors import LEARNED, PRIORS, Material
from benchmarks.estimators.results import Case, Cold, Results
from benchmarks.estimators.stream import Length, Stream
from rollout_budget.decisions import PAPER_RANGE
from rollout_budget.outcomes import FloatArray
from services.prior_api.heads.base import Float32Array

SYNTHETIC_PRIORS = (
    "truth + N(0, .1)",
    "truth + N(0, .25)",
    "constant",
    "anti-correlated",
    "right for half",
    "drifting",
)
"""Priors that synthetic families are shown with."""
COLD_START = 64
"""Groups that a run may learn from before it is held to anything."""
COLD_WINDOW = 512
"""Groups after a cold start that count."""
SMALL_BATCH = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        rows: real outcomes, None where there are none.
        features: prompts' features, for priors that need them.
        families: names, in order.
        priors: names, in order; each family takes those it can have.
        methods: points to measure.
        seeds: how many.
        real: how long a run on real outcomes is.
        synthetic: how long one on a synthetic family is.
        cold: whether to measure cold starts.
    """

    rows: data.Rows | None
    features: Callable[[], Mapping[str, Float32Array]]
    families: Sequence[str]
    priors: Sequence[str]
    methods: Sequence[Method]
    seeds: int = 5
    real: Length = Length()  # noqa: RUF009  frozen
    synthetic: Length = Length(batches=16, size=128, warm_up=4)  # noqa: RUF009  frozen
    cold: bool = True

    def cases(self) -> Iterator[Case]:
        """Yield every family with every prior that it can have."""
        for family in self.families:
            for prior in self.priors:
                if family == families.REAL or (prior in SYNTHETIC_PRIORS and prior not in LEARNED):
                    yield family, prior


def measure(plan: Plan, say: Callable[[str], None] = lambda _line: None) -> Results:
    """Run everything, a line of progress per case."""
    results = Results(plan.seeds)
    cases, start = list(plan.cases()), time.perf_counter()
    for place, case in enumerate(cases):
        for seed in range(plan.seeds):
            family = family_of(plan, case[0], seed)
            _one(plan, results, case, seed, family)
        say(f"[{place + 1}/{len(cases)}] {case[0]}, {case[1]}: {time.perf_counter() - start:.0f} s")
    return results


def family_of(plan: Plan, name: str, seed: int) -> Family:
    """Return the targets of one seed.

    Raises:
        ValueError: real ones are asked for and there is no folder of them.
    """
    if name != families.REAL:
        return families.synthetic(name, seed)
    if plan.rows is None:
        raise ValueError("real outcomes need a folder of them")
    return families.real(plan.rows, seed)


def _one(plan: Plan, results: Results, case: Case, seed: int, family: Family) -> None:
    prior = PRIORS[case[1]](Material(family, np.random.default_rng([seed, 1]), plan.features))
    length = plan.real if case[0] == families.REAL else plan.synthetic
    stream = Stream.of(family, prior, np.random.default_rng([seed, 2]), length)
    learned = simulate.Learned(stream)
    own = PAPER_RANGE.squared_from_unit(float(np.mean((stream.prior - stream.truth)[stream.counted] ** 2)))
    results.own.setdefault(case, np.full(plan.seeds, np.nan))[seed] = own
    for method in plan.methods:
        found = scores.score(simulate.run(method, learned), stream)
        results.note(case, (method.curve, method.label), seed, asdict(found))
    for k in SIZES:
        found = scores.score(bounds.bayes(family, prior, stream, k), stream)
        results.note(case, (bounds.BAYES, f"k = {k}"), seed, asdict(found))
    if prior.values.shape[0] == 1:
        errors = bounds.expected_errors(family, prior)
        for k in SIZES:
            point = {"rollouts": float(k), "error": bounds.oracle(errors, k)}
            results.note(case, (bounds.ORACLE, f"k = {k}"), seed, point)
    if plan.cold:
        small = Length(batches=(COLD_START + COLD_WINDOW) // SMALL_BATCH, size=SMALL_BATCH, warm_up=0)
        short = Stream.of(family, prior, np.random.default_rng([seed, 4]), small)
        _cold(results, case, seed, learned, simulate.Learned(short))


def _cold(results: Results, case: Case, seed: int, large: simulate.Learned, small: simulate.Learned) -> None:
    """Compare ours with leave-one-out after a cold start, in small batches, in large ones, and over the whole run."""
    size = large.stream.length.size
    settings = (
        (f"{SMALL_BATCH} groups a step, next {COLD_WINDOW}", small, slice(COLD_START, None)),
        (f"{size} groups a step, next {COLD_WINDOW}", large, slice(size, size + COLD_WINDOW)),
        (f"{size} groups a step, whole run", large, slice(size, None)),
    )
    rows = results.cold.setdefault(case, [])
    for k in SIZES:
        ours, theirs = fixed(EMPIRICAL_BAYES, "empirical_bayes", k), fixed(LEAVE_ONE_OUT, "leave_one_out", k)
        finals = {id(run): (simulate.run(ours, run), simulate.run(theirs, run)) for run in (small, large)}
        for setting, run, part in settings:
            row = next((row for row in rows if (row.setting, row.k) == (setting, k)), None)
            if row is None:
                row = Cold(setting, k, *np.full((2, 2, results.seeds), np.nan))
                rows.append(row)
            row.ours[:, seed], row.theirs[:, seed] = (_errors(final, run.stream, part) for final in finals[id(run)])


def _errors(final: simulate.Final, stream: Stream, part: slice) -> FloatArray:
    """Return mean squared errors of values and of sample baselines over some groups."""
    chosen = np.zeros(len(final.groups), dtype=np.bool_)
    chosen[part] = True
    owner = final.groups.owner
    of_group = np.mean((final.value - stream.truth)[chosen] ** 2)
    of_sample = np.mean((final.per_sample - stream.truth[owner])[chosen[owner]] ** 2)
    return np.array([PAPER_RANGE.squared_from_unit(float(of_group)), PAPER_RANGE.squared_from_unit(float(of_sample))])
