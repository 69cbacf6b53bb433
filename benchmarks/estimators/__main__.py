"""`python -m benchmarks.estimators --data PATH --out PATH`: every estimator and allocation rule in one fair arena.

All methods meet the same prompts with the same outcomes, on real success rates of language models and on synthetic
families, with priors from nearly exact to misleading. Prints targets with PASS or MISS and one table over all priors at
4 rollouts per group; writes everything to --out: what was printed, `priors.md` (a table per prior), `points.md` and
`figures.json` (all points), `estimators.png`. Squared errors are on the {-1, +1} scale.

Without --data the public sample data of github.com/Now-Join-Us/V0 is fetched; where the network does not allow that,
only synthetic families are run, and a line says so.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.estimators import (
    ablation,
    arena,
    data,
    documents,
    families,
    heads,
    priors,
    reference,
    report,
    scores,
    starts,
    targets,
)
from benchmarks.estimators.arena import Plan
from benchmarks.estimators.methods import METHODS, REFERENCE_METHODS
from benchmarks.estimators.results import Results
from benchmarks.estimators.stream import Length
from benchmarks.estimators.variants import VARIANTS

FAMILIES = (families.REAL, *families.SYNTHETIC)
QUICK = Length(batches=6, size=64, warm_up=2)
ABLATION_PRIORS = (*priors.REFERENCE_PRIORS, "anti-correlated", "right for half", "drifting")
PANELS = (*priors.REFERENCE_PRIORS, "anti-correlated", "right for half")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data", type=Path, help="folder with context.jsonl, train.jsonl, prompts.json")
    found.add_argument("--out", type=Path, default=Path("runs/estimators"), help="folder for tables and plot")
    found.add_argument("--seeds", type=int, default=5)
    found.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    found.add_argument("--priors", nargs="+", choices=list(priors.PRIORS), default=list(priors.PRIORS))
    curves = list(dict.fromkeys(method.curve for method in METHODS))
    found.add_argument("--methods", nargs="+", choices=curves, default=curves, metavar="CURVE", help=", ".join(curves))
    found.add_argument("--docs", type=Path, help="Markdown document whose marked sections the tables replace")
    found.add_argument("--quick", action="store_true", help="a smoke run: one seed, six small batches")
    found.add_argument("--ablation", action="store_true", help="compare the variants of ours instead")
    found.add_argument("--reference", action="store_true", help="compare with the first published figures instead")
    return found


def refused(why: str) -> SystemExit:
    """Say in one line why nothing is run; return the exit with code 2."""
    print(why, file=sys.stderr)
    return SystemExit(2)


def outcomes(folder: Path | None, out: Path) -> tuple[data.Rows, Path] | None:
    """Return real outcomes and where they are, fetched if no folder is named; None where none can be had.

    Raises:
        SystemExit: the folder named holds none; one line.
    """
    try:
        found = data.fetch(out / "data") if folder is None else folder
        return data.load(found), found
    except data.Unreachable as error:
        print(f"no real outcomes: --data names none, and the public ones cannot be fetched ({error}); synthetic only")
        return None
    except (OSError, ValueError) as error:
        raise refused(f"--data: {error}") from None


def plan(options: argparse.Namespace) -> Plan:
    """Return what the options ask for.

    Raises:
        SystemExit: nothing is left to run.
    """
    wanted = list(options.families)
    real = outcomes(options.data, options.out) if families.REAL in wanted else None
    if real is None:
        wanted = [name for name in wanted if name != families.REAL]
    features = functools.cache(lambda: heads.encode(real[1], options.out / "features.npz") if real else {})
    methods = tuple(method for method in METHODS if method.curve in options.methods)
    whole = Plan(real[0] if real else None, features, wanted, options.priors, methods, options.seeds)
    if options.ablation:
        chosen = [name for name in options.priors if name in ABLATION_PRIORS]
        whole = replace(whole, priors=chosen, methods=ablation.methods(VARIANTS), cold=False)
    if options.reference:
        only = [name for name in options.priors if name in priors.REFERENCE_PRIORS]
        whole = replace(whole, families=[families.REAL], priors=only, methods=REFERENCE_METHODS, cold=False)
    if options.quick:
        whole = replace(whole, real=QUICK, synthetic=QUICK, seeds=1)
    if not list(whole.cases()):
        raise refused("nothing to run: no family that is left has any of these priors")
    return whole


def main() -> None:
    """Measure, print, write."""
    command = parser()
    options = command.parse_args()
    if options.seeds < 1:
        command.error("--seeds must be at least 1")
    if options.docs is not None and not options.docs.is_file():
        command.error(f"--docs {options.docs} is no file")
    start, cpu = time.perf_counter(), time.process_time()
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = plan(options)
    results = arena.measure(wanted, functools.partial(print, flush=True))
    if options.ablation:
        sections = {
            "ablation": ablation.table(results, VARIANTS),
            "starts": starts.warm_starts(wanted),
            "credit": starts.partial_credit(wanted.seeds),
        }
    elif options.reference:
        sections = {"reference": reference.table(results)}
    else:
        sections = summary(results)
        picture = options.out / "estimators.png"
        report.plot(results, PANELS, picture)
        every = [
            f"### {family}, {prior}\n\n{report.case_table(results, (family, prior))}" for family, prior in results.own
        ]
        (options.out / "priors.md").write_text("\n\n".join(every) + "\n", encoding="utf-8")
        if options.docs is not None:
            shutil.copy(picture, options.docs.parent / picture.name)
    took = f"{results.seeds} seeds, {time.perf_counter() - start:.0f} s, {time.process_time() - cpu:.0f} s of one core"
    for name, text in sections.items():
        (options.out / f"{name}.md").write_text(text + "\n", encoding="utf-8")
        print(f"\n{text}")
    if options.docs is not None:
        first = next(iter(sections))
        documents.write(options.docs, sections | {first: f"{sections[first]}\n\n{took[0].upper()}{took[1:]}."})
    (options.out / "points.md").write_text(report.all_points(results) + "\n", encoding="utf-8")
    (options.out / "figures.json").write_text(as_json(results), encoding="utf-8")
    print(f"\n{took}; everything is in {options.out}")


def summary(results: Results) -> dict[str, str]:
    """Return the targets, the table over all priors, and a table for each of the reference priors."""
    found = list(targets.checks(results))
    shown = [prior for prior in priors.REFERENCE_PRIORS if (families.REAL, prior) in results.own]
    tables = [
        f"**{prior}**\n\n{report.case_table(results, (families.REAL, prior), report.SHORT_DETAIL)}" for prior in shown
    ]
    return {"targets": report.targets_table(found), "overview": report.overview(results), "priors": "\n\n".join(tables)}


def as_json(results: Results) -> str:
    """Return every figure of every seed; null where a figure does not exist."""
    rows = []
    for (family, prior), points in results.figures.items():
        for (curve, label), found in points.items():
            columns = {name: _known(column) for name, column in zip(scores.NAMES, found.T.tolist(), strict=True)}
            rows.append({"outcomes": family, "prior": prior, "curve": curve, "setting": label, **columns})
    own = [{"outcomes": case[0], "prior": case[1], "own": error.tolist()} for case, error in results.own.items()]
    return json.dumps({"own": own, "points": rows}, indent=1)


def _known(values: list[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


if __name__ == "__main__":
    main()
