"""`python -m benchmarks.decisions`: groups decided per second, median of five runs, beside a plain loop's.

One decision is all of it: ragged sums, baselines of groups and of samples, worth curves, wish, and a share of half of
what is wished for. Group sizes are uniform from 0 to 16, priors miss by 0.15. Both sides must agree before a figure is
printed.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks.decisions import reference
from rollout_budget import allocation, baselines, stopping
from rollout_budget.decisions import PAPER_PRICE, PAPER_RANGE, Plan, Rules, next_wave
from rollout_budget.groups import Groups, IntArray
from rollout_budget.reliability import Reliability

RULES = Rules(
    baselines.get("empirical_bayes"), stopping.get("posterior_variance"), price=PAPER_RANGE.squared_to_unit(PAPER_PRICE)
)
"""At the paper's price many groups ask for more, so that sharing a cap is real work."""
KNOWN = Reliability.known(0.15**2, 0.15)
LEARNED_FROM = 4096
"""Groups behind the learned law; the loop knows the Beta law of given D and S alone."""


def make(count: int, seed: int) -> Groups:
    """Return `count` unequal groups."""
    rng = np.random.default_rng(seed)
    rate = rng.random(count)
    sizes = rng.integers(0, RULES.k_max + 1, count)
    return Groups(
        prior=np.clip(rate + rng.normal(0, 0.15, count), 0, 1),
        prior_error=np.full(count, np.nan),
        sizes=sizes,
        outcomes=(rng.random(sizes.sum()) < np.repeat(rate, sizes)).astype(np.float64),
    )


def decide(groups: Groups, cap: int, reliability: Reliability = KNOWN) -> tuple[Plan, IntArray]:
    """Decide all groups at once. The groups are taken afresh, so that nothing is cached between runs."""
    fresh = Groups(groups.prior, groups.prior_error, groups.sizes, groups.outcomes)
    plan = next_wave(RULES, fresh, reliability)
    return plan, allocation.share(plan.worth, plan.wanted, cap)


def check(plan: Plan, granted: IntArray, answer: reference.Answer) -> None:
    """Refuse to print a figure for an answer that differs from the loop's."""
    np.testing.assert_allclose(plan.baselines.value, answer.values, rtol=1e-12)
    loop = [value for baseline in answer.per_sample for value in baseline]
    np.testing.assert_allclose(plan.baselines.per_sample, loop, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(plan.wanted, answer.wanted)
    np.testing.assert_array_equal(granted, answer.granted)


def timed(work: Callable[[], object], runs: int) -> list[float]:
    """Return the CPU seconds of each of `runs` runs, after one that does not count."""
    seconds = []
    for _ in range(runs + 1):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return seconds[1:]


def line(name: str, count: int, seconds: list[float]) -> str:
    """Return one row of the table."""
    rates = sorted(count / second for second in seconds)
    middle = statistics.median(rates)
    return f"| {name} | {statistics.median(seconds):.3f} | {middle:,.0f} | {rates[0]:,.0f} to {rates[-1]:,.0f} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    groups = make(options.groups, options.seed)
    cap = int(next_wave(RULES, groups, KNOWN).wanted.sum()) // 2
    priors, outcomes = groups.prior.tolist(), groups.split(groups.outcomes)
    settings = reference.Settings(KNOWN.strength, RULES.price, RULES.k_max)
    check(*decide(groups, cap), reference.decide(priors, outcomes, settings, cap))

    ours = timed(lambda: decide(groups, cap), options.runs)
    learned = Reliability().update(make(LEARNED_FROM, options.seed + 1))
    by_law = timed(lambda: decide(groups, cap, learned), options.runs)
    loop = timed(lambda: reference.decide(priors, outcomes, settings, cap), options.runs)
    print(f"{options.groups:,} groups, {groups.outcomes.size:,} outcomes, cap {cap:,}; one core,")
    print(
        f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, {options.runs} runs each\n"
    )
    print("| | CPU seconds (median) | groups per second (median) | spread |")
    print("|---|---|---|---|")
    print(line("vectorised", options.groups, ours))
    print(line("vectorised, by a learned law", options.groups, by_law))
    print(line("plain loop", options.groups, loop))
    print(f"\nratio {statistics.median(loop) / statistics.median(ours):.1f}")


if __name__ == "__main__":
    main()
