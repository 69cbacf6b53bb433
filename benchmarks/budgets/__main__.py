"""`python -m benchmarks.budgets --data PATH --out PATH`: what a budget buys, over a run and within a step.

First part, pacing: runs of --steps steps with one budget for all of them, spent at the paced price, at fixed prices (the
best in hindsight of a grid and the one whose demand just fits the budget, a quarter and four times of it, the shipped
one) and step by step in equal parts. Prints total squared error on the {-1, +1} scale, the share of the budget used,
steps in which a group got no rollout at all, and the error over that of the best fixed price in hindsight.

Second part, shares: steps under a cap that binds, through the real engine and ledger, rollouts by worth against the
same number for every group: ratio of total squared errors, for every world and prior of `benchmarks.estimators`.

Without --data the public sample data is fetched, or only synthetic outcomes are used.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.budgets import report, shares
from benchmarks.budgets.report import EVEN, HINDSIGHT, PACED
from benchmarks.budgets.spending import Even, Fixed, Paced, Spending, Spent, fitting, spend
from benchmarks.budgets.world import REGIMES, draw
from benchmarks.estimators import __main__ as arena_command
from benchmarks.estimators import arena, documents, families, heads, priors
from benchmarks.estimators.arena import Plan
from benchmarks.estimators.priors import Material
from benchmarks.estimators.stream import Length, Stream
from rollout_budget.decisions import OUR_PRICE

GRID = 2.0 ** np.arange(-9.0, -3.5, 1.0)
"""Fixed prices tried, {-1, +1} scale, beside the one that fits the budget; the best of all is the best in hindsight."""
PACING_FAMILIES = (families.REAL, "u-shaped")
BUDGETS = (3, 6)
"""Rollouts per group, on average over a run."""
SHARES = (2, 4, 8)
SHARE_LENGTH = Length(batches=12, size=64, warm_up=4)
SHOWN = (PACED, HINDSIGHT, EVEN)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data", type=Path, help="folder with context.jsonl, train.jsonl, prompts.json")
    found.add_argument("--out", type=Path, default=Path("runs/budgets"), help="folder for tables and plot")
    found.add_argument("--seeds", type=int, default=3, help="runs per world; a seed fixes prompts, priors and outcomes")
    found.add_argument("--steps", type=int, default=200, help="steps of a run in the first part")
    found.add_argument("--groups", type=int, default=32, help="groups of a step in the first part")
    found.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS), help="rollouts per group over a run")
    found.add_argument("--regimes", nargs="+", choices=list(REGIMES), default=list(REGIMES), help="of the first part")
    found.add_argument("--families", nargs="+", choices=arena_command.FAMILIES, default=list(arena_command.FAMILIES))
    found.add_argument("--priors", nargs="+", choices=list(priors.PRIORS), default=list(priors.PRIORS))
    found.add_argument("--parts", nargs="+", choices=("pacing", "shares"), default=["pacing", "shares"])
    found.add_argument("--docs", type=Path, help="Markdown document whose marked sections the tables replace")
    return found


def ways(steps: int, budget: int) -> dict[str, Spending]:
    """Return what is compared beside the grid of fixed prices."""
    return {
        PACED: Paced(steps),
        EVEN: Even(steps, budget),
        f"fixed, the shipped 1/{1 / OUR_PRICE:.0f}": Fixed(OUR_PRICE),
    }


def pacing(
    plan: Plan, regimes: Sequence[str], each_of: Sequence[int], steps: int, groups: int
) -> tuple[str, dict[tuple[str, str, int], dict[str, list[Spent]]]]:
    """Return the table of the first part and its runs."""
    cases: dict[tuple[str, str, int], dict[str, list[Spent]]] = {}
    budgets: dict[tuple[str, str, int], list[int]] = {}
    for name in [family for family in PACING_FAMILIES if family in plan.families]:
        for regime in regimes:
            for each in each_of:
                case = (name, regime, each)
                for seed in range(plan.seeds):
                    rng = np.random.default_rng([seed, 5])
                    run = draw(arena.family_of(plan, name, seed), REGIMES[regime], rng, steps, groups)
                    budget = each * run.truth.size
                    budgets.setdefault(case, []).append(budget)
                    prices = [*GRID.tolist(), fitting(run, budget)]
                    fixed = [spend(run, Fixed(price), budget) for price in prices]
                    best = int(np.argmin([spent.total for spent in fixed]))
                    found = {way: spend(run, spending, budget) for way, spending in ways(steps, budget).items()}
                    found |= {
                        HINDSIGHT: fixed[best],
                        "fixed, a quarter of the best": spend(run, Fixed(prices[best] / 4.0), budget),
                        "fixed, four times the best": spend(run, Fixed(prices[best] * 4.0), budget),
                    }
                    for way, spent in found.items():
                        cases.setdefault(case, {}).setdefault(way, []).append(spent)
                print(", ".join(map(str, case)), "done", flush=True)
    return report.pacing_table(cases, budgets), cases


def shared(plan: Plan) -> str:
    """Return the table of the second part."""
    cases: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for family_name, prior_name in plan.cases():
        rows: dict[int, list[np.ndarray]] = {each: [] for each in SHARES}
        for seed in range(plan.seeds):
            family = arena.family_of(plan, family_name, seed)
            material = Material(family, np.random.default_rng([seed, 1]), plan.features)
            prior = priors.PRIORS[prior_name](material)
            stream = Stream.of(family, prior, np.random.default_rng([seed, 2]), SHARE_LENGTH)
            for each in SHARES:
                rows[each].append(shares.compare(stream, each))
        cases[family_name, prior_name] = {each: np.stack(found) for each, found in rows.items()}
        print(family_name, prior_name, "done", flush=True)
    return report.shares_table(cases)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    command = parser()
    options = command.parse_args(arguments)
    for name in ("seeds", "steps", "groups"):
        if getattr(options, name) < 1:
            command.error(f"--{name} must be at least 1")
    if options.docs is not None and not options.docs.is_file():
        command.error(f"--docs {options.docs} is no file")
    options.out.mkdir(parents=True, exist_ok=True)
    start, real = time.perf_counter(), arena_command.outcomes(options.data, options.out)
    names = [name for name in options.families if real or name != families.REAL]
    features = functools.cache(lambda: heads.encode(real[1], options.out / "features.npz") if real else {})
    plan = Plan(real[0] if real else None, features, names, options.priors, (), options.seeds)
    sections: dict[str, str] = {}
    if "pacing" in options.parts:
        sections["pacing"], cases = pacing(plan, options.regimes, options.budgets, options.steps, options.groups)
        report.plot(cases, SHOWN, options.out / "budgets.png")
        if options.docs is not None:
            shutil.copy(options.out / "budgets.png", options.docs.parent / "budgets.png")
    if "shares" in options.parts:
        sections["shares"] = shared(plan)
    for name, text in sections.items():
        (options.out / f"{name}.md").write_text(text + "\n", encoding="utf-8")
        print(f"\n{text}")
    if options.docs is not None:
        documents.write(options.docs, sections)
    print(f"\n{options.seeds} seeds, {time.perf_counter() - start:.0f} s; everything is in {options.out}")


if __name__ == "__main__":
    main()
