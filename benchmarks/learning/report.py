"""The study as a page that opens offline, pictures, and Markdown tables between the markers of a document.

Owns the layout; every figure comes from `analysis`. Pictures are drawn by the trainer's own report (`trainer.report.plots`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from benchmarks.estimators import documents
from benchmarks.learning.analysis import (
    Family,
    Interval,
    families,
    gain,
    mean_final,
    share_to_reach,
    smoothed,
)
from benchmarks.learning.cells import POOLS, RATES, TASKS, TUNING_SEEDS, Pool
from benchmarks.learning.methods import ALL, METHODS, OURS, REFERENCE
from benchmarks.learning.picture import STEPS_IN_MEAN, overview, steps, training
from benchmarks.learning.results import Measured, Result, Step
from benchmarks.learning.tuning import NotTuned, Rates
from trainer.report.plots import Plot, png, svg

TEMPLATE = Path(__file__).with_name("page.html")
SHOWN = (REFERENCE, OURS, "RLOO-2", "RLOO-4", "V0.5", "SPO")
"""Methods of the pictures: as many as there are colours to tell apart."""
TARGETS: Mapping[Pool, tuple[float, float]] = {"recurring": (0.5, 0.65), "stream": (0.35, 0.5)}
"""Share of the reference's rollouts that ours was to need at most, and the upper end of its interval."""
COLUMNS = ("method", "final accuracy", "against GRPO-16", "share of its rollouts", "stable", "rate", "seeds")

Axis = Callable[[Measured], float]
Figure = Callable[[Step], float | None]


@dataclass(frozen=True, slots=True)
class Scene:
    """One task with one pool: its runs on the measured seeds, and the reference among them."""

    task: str
    pool: Pool
    results: Sequence[Result]

    @property
    def title(self) -> str:
        """What the scene is called."""
        return f"{self.task}, {'a pool that recurs' if self.pool == 'recurring' else 'prompts that are met once'}"

    @property
    def key(self) -> str:
        """Name of its section and of its pictures."""
        return f"{self.task}-{self.pool}"

    def families(self) -> Mapping[str, Family]:
        """Return the runs by method, in the order of `ALL`."""
        longest = max(run.rollouts for run in self.results if run.method == REFERENCE)
        found = families(self.results, longest)
        return {name: found[name] for name in ALL if name in found}


def scenes(results: Sequence[Result]) -> list[Scene]:
    """Return what can be told: every task and pool on which the reference has run."""
    measured = [result for result in results if result.seed not in TUNING_SEEDS]
    found = []
    for task in TASKS:
        for pool in POOLS:
            here = [result for result in measured if (result.task, result.pool) == (task, pool)]
            if any(result.method == REFERENCE for result in here):
                found.append(Scene(task, pool, here))
    return found


def write(results: Sequence[Result], out: Path, *, document: Path | None = None) -> None:
    """Write `out/report.html`, its pictures as PNG, `tables.md`, and the marked tables of a document."""
    told = scenes(results)
    out.mkdir(parents=True, exist_ok=True)
    sections = {scene.key: markdown(table(scene)) for scene in told}
    sections |= {
        "targets": markdown(targets(told)),
        "rates": markdown(rates(results)),
        "behaviour": markdown(behaviour(told)),
    }
    drawn = {scene.key: plots(scene) for scene in told}
    for key, (names, pictures) in drawn.items():
        for picture in pictures:
            (out / f"{key}-{picture.key}.png").write_bytes(png(picture, names))
    shown = _for_document(told)
    for name, data in shown.items():
        (out / name).write_bytes(data)
    (out / "tables.md").write_text("\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items()) + "\n")
    (out / "report.html").write_text(page(results, told, drawn), encoding="utf-8")
    print("\n\n".join(f"{name}\n{text}" for name, text in sections.items()))
    print(f"\nReport (opens offline): {out / 'report.html'}")
    if document is not None:
        text = document.read_text(encoding="utf-8")
        for name, data in shown.items():
            document.with_name(name).write_bytes(data)
        documents.write(document, {name: body for name, body in sections.items() if f"<!-- begin {name} -->" in text})


def _for_document(told: Sequence[Scene]) -> dict[str, bytes]:
    """Return the pictures of the document by file name."""
    if not told:
        return {}
    first = told[-1]
    return {
        "learning-study.png": overview([(scene.title, scene.results) for scene in told], SHOWN),
        "learning-study-training.png": training(first.title, first.results, SHOWN),
    }


def table(scene: Scene) -> list[list[str]]:
    """Return the figures of a scene, a row a method, the reference first."""
    found = scene.families()
    reference = found[REFERENCE]
    rates = {result.method: result.rate for result in scene.results}
    rows = [list(COLUMNS)]
    for name, family in found.items():
        rows.append(
            [
                name,
                _plain(mean_final(family)),
                "" if name == REFERENCE else _plain(gain(family, reference), sign=True),
                _share(share_to_reach(family, reference)),
                _stable(family),
                f"{rates[name]:g}",
                str(len(family.seeds)),
            ]
        )
    return rows


def targets(told: Sequence[Scene]) -> list[list[str]]:
    """Return what was asked of ours and what it did."""
    rows = [["task", "prompts", "asked: share, upper end", "ours", "met"]]
    for scene in told:
        found = scene.families()
        if OURS in found:
            share, upper = TARGETS[scene.pool]
            ours = share_to_reach(found[OURS], found[REFERENCE])
            met = ours.value <= share and ours.high < upper
            rows.append([scene.task, scene.pool, f"{share}, {upper}", _share(ours), "yes" if met else "**no**"])
    return rows


def rates(results: Sequence[Result]) -> list[list[str]]:
    """Return what the tuning found: final accuracy by rate, on the tuning seeds; the chosen one in bold."""
    tuned = Rates.from_results(results)
    rows = [["task", "method", *(f"{rate:g}" for rate in RATES)]]
    for (task, method), by_rate in tuned.found.items():
        try:
            chosen = tuned.of(task, method)
        except NotTuned:
            continue
        cells = [f"{by_rate[rate]:.3f}" if rate in by_rate else "" for rate in RATES]
        rows.append(
            [
                task,
                method,
                *(f"**{cell}**" if rate == chosen else cell for rate, cell in zip(RATES, cells, strict=True)),
            ]
        )
    return rows


def behaviour(told: Sequence[Scene]) -> list[list[str]]:
    """Return how methods train: group size, prompts a step, gradient norm, entropy, time; means over all runs."""
    runs: dict[str, list[Result]] = defaultdict(list)
    for scene in told:
        for result in scene.results:
            if result.method in METHODS:
                runs[result.method].append(result)
    head = [
        "method",
        "rollouts a prompt",
        "prompts a step",
        "gradient norm",
        "entropy, start to end",
        "tokens a rollout",
        "seconds a run",
    ]
    return [head, *([name, *_behaviour(runs[name])] for name in METHODS if name in runs)]


def _behaviour(runs: Sequence[Result]) -> list[str]:
    steps = [step for run in runs for step in run.steps]
    groups = sum(step.groups for step in steps)
    norms = [step.grad_norm for step in steps if step.grad_norm is not None]
    first = [run.steps[1].entropy for run in runs if len(run.steps) > 1 and run.steps[1].entropy is not None]
    last = [value for run in runs for step in run.steps[-STEPS_IN_MEAN:] if (value := step.entropy)]
    rollouts = sum(run.rollouts for run in runs)
    return [
        f"{rollouts / groups:.1f}",
        f"{groups / len(steps):.0f}",
        f"{np.mean(norms):.2f}",
        f"{np.mean(first):.2f} to {np.mean(last):.2f}" if first and last else "",
        f"{sum(run.tokens for run in runs) / rollouts:.1f}",
        f"{np.mean([run.curve[-1].seconds for run in runs]):.0f}",
    ]


def plots(scene: Scene) -> tuple[list[str], list[Plot]]:
    """Return the names of the methods shown and the pictures of a scene."""
    names = [name for name in SHOWN if any(result.method == name for result in scene.results)]
    runs = [[result for result in scene.results if result.method == name] for name in names]
    level = float(scene.families()[REFERENCE].finals.mean())

    def accuracy(key: str, across: str, axis: Axis) -> Plot:
        curves = tuple(tuple(smoothed(result, axis) for result in group) for group in runs)
        return Plot(f"accuracy-{key}", f"{scene.title}: accuracy", across, "held-out accuracy", curves, level)

    def by_step(key: str, up: str, figure: Figure) -> Plot:
        curves = tuple(
            tuple(steps(result, [figure(step) for step in result.steps]) for result in group) for group in runs
        )
        return Plot(key, f"{scene.title}: {up}", "rollouts", up, curves)

    drawn = [
        accuracy("rollouts", "rollouts", lambda point: point.rollouts),
        accuracy("tokens", "tokens sampled", lambda point: point.tokens),
        accuracy("seconds", "seconds of drawing, learning and publishing", lambda point: point.seconds),
        by_step("entropy", "entropy", lambda step: step.entropy),
        by_step("gradient-norm", "gradient norm", lambda step: step.grad_norm),
    ]
    return names, [plot for plot in drawn if any(across.size for curves in plot.curves for across, _ in curves)]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first of them the head, as a Markdown table."""
    head, *body = rows
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))


def page(results: Sequence[Result], told: Sequence[Scene], drawn: Mapping[str, tuple[list[str], list[Plot]]]) -> str:
    """Return the report as one HTML file: no script, nothing fetched."""
    parts = [f"<h2>Targets</h2>{_html(targets(told))}"]
    for scene in told:
        names, pictures = drawn[scene.key]
        figures = "".join(f"<figure>{svg(picture, names)}</figure>" for picture in pictures)
        parts.append(f'<h2>{escape(scene.title)}</h2>{_html(table(scene))}<div class="plots">{figures}</div>')
    parts.append(f"<h2>How methods train</h2>{_html(behaviour(told))}")
    parts.append(f"<h2>Learning rates on the tuning seeds</h2>{_html(rates(results))}")
    described = "".join(f"<li>{escape(name)}: {escape(method.says)}</li>" for name, method in ALL.items())
    codes = ", ".join(sorted({result.code for result in results}))
    machines = ", ".join(sorted({result.machine for result in results}))
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        body="\n".join(parts), methods=described, code=escape(codes), machines=escape(machines), runs=str(len(results))
    )


def _html(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ([escape(cell.replace("**", "")) for cell in row] for row in rows)
    lines = [f"<th>{'</th><th>'.join(head)}</th>", *(f"<td>{'</td><td>'.join(row)}</td>" for row in body)]
    return f'<div class="scroll"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def _plain(interval: Interval, *, sign: bool = False) -> str:
    form = "+.3f" if sign else ".3f"
    return f"{interval.value:{form}} ({interval.low:{form}} to {interval.high:{form}})"


def _share(interval: Interval) -> str:
    return f"{_times(interval.value)} ({_times(interval.low)} to {_times(interval.high)})"


def _times(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.2f}"


def _stable(family: Family) -> str:
    """Count seeds whose final accuracy is not below where they began."""
    kept = int((family.finals >= family.curves[:, 0]).sum())
    return f"{kept}/{len(family.seeds)}"
