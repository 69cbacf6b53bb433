"""`python -m benchmarks.prior --data FOLDER [--url URL --key KEY]`: prints the table of `docs/prior.md`.

Without a URL a service is started in a temporary folder. A key given must be a service key: every question gets a team.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.prior.measure import MODELS, Result, measure, register
from benchmarks.prior.protocols import REFERENCES, REFERRED
from benchmarks.prior.server import prior_service
from rollout_budget.client import PriorClient
from services.prior_api.evaluate import scores
from services.prior_api.evaluate.data import DataError, Outcomes, load
from services.prior_api.evaluate.splits import Protocol, split

EVIDENCE_ROWS = 256
PATIENCE_S = 120.0
"""For one answer: on a busy machine the first one, with its fit, may take longer than a trainer would wait."""
HEAD = (
    "| evidence | model | AUC | squared error | raw error | explained variance | within 50 / 68 / 90 | z | error / constant's |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prior", description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder of outcomes, as `python -m services.prior_api evaluate` reads it",
    )
    parser.add_argument("--url", help="a running prior service; one is started if absent")
    parser.add_argument("--key", help="a service key of it")
    parser.add_argument("--splits", type=int, default=3)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that a service started here ends too
    try:
        outcomes = load(arguments.data)
    except DataError as error:
        parser.error(str(error))
    service = prior_service() if arguments.url is None else contextlib.nullcontext((arguments.url, arguments.key))
    with service as (url, key):
        asyncio.run(run(url, key, outcomes, arguments.splits))


async def run(url: str, key: str, outcomes: Outcomes, splits: int) -> None:
    """Measure every protocol on every split and print one table."""
    async with PriorClient(url, key, timeout=PATIENCE_S) as client:
        await register(client.for_team("texts"), outcomes, _progress)
        print(HEAD)
        for protocol in REFERRED:
            halves = [split(outcomes, seed, EVIDENCE_ROWS) for seed in range(splits)]
            results = [await measure(client, outcomes, half, protocol) for half in halves]
            print(table(protocol, results), flush=True)


def table(protocol: Protocol, results: Sequence[Result]) -> str:
    """Return the lines of one protocol: every model, then the reference; `±` is half the range over splits."""
    constant = scores.mean([result.scores["constant"] for result in results]).squared_error
    lines = []
    for model in MODELS:
        by_split = [result.scores[model] for result in results]
        mean, spread = scores.mean(by_split), scores.spread(by_split)
        lines.append(
            f"| {protocol.meaning if model == MODELS[0] else ''} | {model} | {mean.auc:.3f} ± {spread.auc:.3f} "
            f"| {mean.squared_error:.3f} ± {spread.squared_error:.3f} | {mean.raw_error:.3f} "
            f"| {mean.explained_variance:.3f} ± {spread.explained_variance:.3f} "
            f"| {mean.beta_50:.2f} / {mean.beta_68:.2f} / {mean.beta_90:.2f} | {mean.z_deviation:.2f} | {mean.squared_error / constant:.2f} |"
        )
    auc, raw, explained = REFERENCES[protocol.name]
    lines.append(f"| | reference figure | {auc:.3f} | | {raw:.3f} | {explained:.2f} | | | |")
    first, again = (sum(times) / len(results) for times in zip(*((r.first_s, r.again_s) for r in results), strict=True))
    _progress(
        f"{protocol.name}: first answer {first:.2f} s (with the fit), second {again:.3f} s, for a step of targets"
    )
    return "\n".join(lines)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
