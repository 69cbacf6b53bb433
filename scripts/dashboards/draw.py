"""`python -m scripts.dashboards.draw BOARD --prometheus URL --out FILE`: the curves of a dashboard, drawn without Grafana.

It asks the queries of the committed JSON, variables at All, over the last minutes, and draws what comes with matplotlib. It
is no picture of Grafana: it shows what the queries answer, not how Grafana draws it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from scripts.dashboards.__main__ import FOLDER

COLUMNS = 3
POINTS = 120
MOST_NAMES = 6
"""Series named in one legend."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw one dashboard; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.dashboards.draw", description="Draw a dashboard's curves.")
    parser.add_argument("board", choices=sorted(path.stem for path in FOLDER.glob("*.json")))
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--minutes", type=float, default=15.0, help="how far back (default 15)")
    parser.add_argument("--window", default="1m", help="what rates are over (default 1m)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args(arguments)
    made = json.loads((FOLDER / f"{options.board}.json").read_text("utf-8"))
    panels = [panel for panel in made["panels"] if panel["type"] == "timeseries"]
    mpl.use("Agg")
    rows = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(15, 3.2 * rows), squeeze=False)
    with httpx.Client(base_url=options.prometheus, timeout=30.0) as http:
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw(axis, panel, http, options.minutes * 60.0, options.window)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(f"{made['title']}: answers of its queries, drawn with matplotlib (not Grafana)", fontsize=12)
    figure.tight_layout()
    figure.savefig(options.out, dpi=80)
    plt.close(figure)
    return 0


def _draw(axis: Axes, panel: dict[str, Any], http: httpx.Client, span_s: float, window: str) -> None:
    axis.set_title(panel["title"], fontsize=10)
    count = 0
    for target in panel["targets"]:
        for series in _asked(http, target["expr"], span_s, window):
            moments = [(at - time.time()) / 60.0 for at, _ in series["values"]]
            name = _named(target["legendFormat"], series["metric"]) if count < MOST_NAMES else None
            axis.plot(moments, [float(value) for _, value in series["values"]], label=name, linewidth=1.2)
            count += 1
    axis.set_ylabel(
        {"percentunit": "share", "cps": "per second", "reqps": "per second"}.get(_unit(panel), _unit(panel))
    )
    axis.tick_params(labelsize=7)
    axis.set_xlabel("minutes from now", fontsize=7)
    if count:
        axis.legend(fontsize=6)


def _asked(http: httpx.Client, expr: str, span_s: float, window: str) -> list[dict[str, Any]]:
    now = time.time()
    filled = re.sub(r"\$(\w+)", lambda match: window if match[1] == "window" else ".*", expr)
    step = max(span_s / POINTS, 1.0)
    parameters: dict[str, str] = {"query": filled, "start": f"{now - span_s}", "end": f"{now}", "step": f"{step}"}
    answer = http.get("/api/v1/query_range", params=parameters)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found


def _named(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), legend)


def _unit(panel: dict[str, Any]) -> str:
    unit: str = panel["fieldConfig"]["defaults"]["unit"]
    return "" if unit in {"short", "none"} else unit


if __name__ == "__main__":
    sys.exit(main())
