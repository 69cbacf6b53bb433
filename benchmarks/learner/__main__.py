"""`python -m benchmarks.learner`: tokens per second and peak memory of a learner's step, beside a plain PyTorch loop's.

Both sides do the same update on the same rows, by turns, in one process; gradient norms must agree before a figure is
printed. A rank has one CPU core or one GPU, and so has the plain loop: with several ranks the ratio is the gain from
them. Tokens are those of prompts and completions, through the forward and the backward pass. Peak memory on CPUs is the
process's, which is a few hundred MB before it does anything; on GPUs what is allocated, of the rank that has most. On a
shared machine the ratio of processor seconds is the one to read.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.learner.measure import Case, Measured, measure
from benchmarks.learner.shapes import SETTINGS, SHAPES, make_model
from benchmarks.prior.speed_clock import machine
from trainer.learner.fsdp import device_kind

HEADER = (
    "| setting | ranks | tokens/s | plain loop | ratio (low to high) | of CPU seconds | peak memory | plain loop |\n"
    "|---|---|---|---|---|---|---|---|"
)


def line(name: str, ranks: int, found: Measured) -> str:
    """Return one row of the table. Ratios are of speeds: above 1 the learner is the faster one."""
    ours, plain = (
        statistics.median(step.tokens / step.wall_s for step in side) for side in (found.learner, found.plain)
    )
    pairs = list(zip(found.learner, found.plain, strict=True))
    walls = spread([other.wall_s / own.wall_s for own, other in pairs])
    cpus = spread([other.cpu_s / own.cpu_s for own, other in pairs])
    peaks = " | ".join(f"{peak / 2**20:,.0f} MiB" for peak in (found.learner_bytes, found.plain_bytes))
    return f"| {name} | {ranks} | {ours:,.0f} | {plain:,.0f} | {walls} | {cpus} | {peaks} |"


def spread(ratios: list[float]) -> str:
    """Return `median (low to high)`."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learner", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="small", help="of the model and of a step's rows")
    parser.add_argument("--ranks", default="1", help="numbers of ranks, separated by commas")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--setting", choices=SETTINGS, action="append", help="may be given again; all by default")
    parser.add_argument("--seeds", type=int, default=3, help="draws of rows")
    parser.add_argument("--repeats", type=int, default=1, help="steps per draw")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    asked = options()
    device = device_kind(asked.device)
    where = torch.cuda.get_device_name() if device == "cuda" else machine()
    print(f"{where}; torch {torch.__version__}; shape {asked.shape}; {asked.seeds * asked.repeats} steps each\n")
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        make_model(SHAPES[asked.shape], model)
        for ranks in map(int, asked.ranks.split(",")):
            for name in asked.setting or list(SETTINGS):
                case = Case(asked.shape, model, SETTINGS[name], device, ranks, asked.seeds, asked.repeats)
                print(line(name, ranks, measure(case, Path(folder) / "out.json")), flush=True)


if __name__ == "__main__":
    main()
