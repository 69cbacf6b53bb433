"""The comparison as one HTML file: no script, nothing fetched, light or dark as the reader's system asks."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from string import Template

from trainer.report.comparison import Comparison
from trainer.report.plots import Plot, plots, png, svg
from trainer.report.table import COLUMNS, cells

TEMPLATE = Path(__file__).with_name("page.html")


def write_report(comparison: Comparison, out: Path) -> Path:
    """Write `out/report.html` and one PNG per picture beside it; return the HTML file."""
    out.mkdir(parents=True, exist_ok=True)
    names = [method.name for method in comparison.methods]
    drawn = plots(comparison)
    for plot in drawn:
        (out / f"{plot.key}.png").write_bytes(png(plot, names))
    page = out / "report.html"
    page.write_text(render(comparison, drawn), encoding="utf-8")
    return page


def render(comparison: Comparison, drawn: list[Plot]) -> str:
    """Return the page."""
    names = [method.name for method in comparison.methods]
    title = names[0] if len(names) == 1 else " against ".join(names)
    runs = [run for method in comparison.methods for run in method.runs]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"Training report: {title}"),
        lead=escape(_lead(comparison)),
        head="".join(f"<th>{escape(column)}</th>" for column in COLUMNS),
        rows="\n".join(_row(index, row) for index, row in enumerate(cells(comparison))),
        notes="\n".join(f"<li>{escape(note)}</li>" for note in comparison.notes),
        figures="\n".join(_figure(plot, names) for plot in drawn),
        sources="\n".join(
            f"<li><code>{escape(str(run.directory))}</code>: {escape(run.config.method)}, seed {run.config.run.seed}</li>"
            for run in runs
        ),
    )


def _lead(comparison: Comparison) -> str:
    """Say in a sentence or two what came out, whichever way it went."""
    reference = comparison.reference
    sentences = [f"{reference.name} went from {_accuracies(comparison, reference.name)}."]
    base = reference.rollouts_to(comparison.target)
    for method in comparison.methods:
        if method is reference:
            continue
        reach = method.rollouts_to(comparison.target)
        told = f"{method.name} went from {_accuracies(comparison, method.name)} and "
        if math.isfinite(reach) and math.isfinite(base) and base > 0:
            told += f"had {reference.name}'s final accuracy after {reach:,.0f} rollouts instead of {base:,.0f}."
        else:
            told += f"did not reach {reference.name}'s final accuracy."
        sentences.append(told)
    return " ".join(sentences)


def _accuracies(comparison: Comparison, name: str) -> str:
    method = next(item for item in comparison.methods if item.name == name)
    start, end = method.spread(lambda run: run.start).mean, method.spread(lambda run: run.end).mean
    used = method.spread(lambda run: run.last.rollouts_total).mean
    return f"a held-out accuracy of {start:.3f} to {end:.3f} in {used:,.0f} rollouts"


def _row(index: int, row: list[str]) -> str:
    dot = f'<span class="dot" style="background: var(--series-{index % 6})"></span>'
    first, *others = map(escape, row)
    return f"<tr><td>{dot}{first}</td>{''.join(f'<td>{cell}</td>' for cell in others)}</tr>"


def _figure(plot: Plot, names: list[str]) -> str:
    return f"<figure>\n{svg(plot, names)}\n<figcaption>{_caption(plot)}</figcaption>\n</figure>"


def _caption(plot: Plot) -> str:
    seeds = max(len(curves) for curves in plot.curves)
    parts = ["Bold: mean over seeds; thin: each seed."] if seeds > 1 else []
    parts += ["Dashed: the reference's final accuracy."] if math.isfinite(plot.level) else []
    return escape(" ".join([*parts, f"Also as {plot.key}.png."]))
