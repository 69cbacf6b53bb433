"""An evaluation as text: three tables in Markdown, columns aligned so that they read on a terminal too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.prior_api.evaluate.run import LATENCY_PROMPTS, Options, Result
from services.prior_api.evaluate.summary import Figures, figures, plain

NOTHING = "-"
"""Where a figure cannot be told."""
READING = """\
Squared errors are on the {-1, +1} scale (four times those on [0, 1]): "error" against the denoised rate (posterior mean
under a Beta law fitted to the policy and version), "raw" against the rate of the trials. AUC ranks prompts solved in half
of their trials or more above the others, within a policy and version. Calibration error is over tenths of the value, all
keys of a split together; "chance" is what it would be for right values, from the scatter of that many rows alone.
"Within 50 / 68 / 90" is the share of raw rates in the central intervals of that nominal coverage, outcome noise
included: "normal" from the standard error alone, "Beta" by the Beta law of the same mean and error with binomial
outcomes. z is the root mean square of the deviations in standard errors, 1 if they are right on average. "Known prompts"
is the share of targets whose prompt the evidence speaks of, under whatever policy or version."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that is reported.

    Attributes:
        command: what prints it again.
        facts: of the folder, by name.
        encoder: in words, how fast it was included.
        notes: what was left out or could not be loaded, in sentences.
    """

    command: str
    facts: dict[str, Any]
    encoder: str
    options: Options
    results: Sequence[Result]
    notes: Sequence[str]


def markdown(evaluation: Evaluation) -> str:
    """Return the whole report."""
    options, facts = evaluation.options, evaluation.facts
    opening = (
        f"{facts['rows']} rows of {facts['prompts']} prompts under {facts['keys']} keys (policy and version) of "
        f"{facts['policies']} policies, {facts['trials_median']} trials a row at the median. Random splits: "
        f"{options.splits}, from seed {options.seed}; up to {options.support} own rows of a key as evidence and as many others held back; "
        f"`±` is half the range over splits. Encoder: {evaluation.encoder}."
    )
    done = [(result, figures(result)) for result in evaluation.results if result.judgements]
    failed = [
        f"{result.head} has no figures under {result.protocol.name}: {result.failure}."
        for result in evaluation.results
        if result.failure
    ]
    parts = [
        "# How good the priors are",
        f"`{evaluation.command}`",
        opening,
        *(["\n".join(f"- {note}" for note in (*evaluation.notes, *failed))] if evaluation.notes or failed else []),
        READING,
        "## By policy and version",
        by_key(done),
        "## Latency",
        latency(done),
        "## By evidence",
        "\n".join(_meanings(done)),
        by_evidence(done),
    ]
    return "\n\n".join(parts) + "\n"


def document(evaluation: Evaluation) -> dict[str, Any]:
    """Return the same for JSON, calibration curves of every key included."""
    options = evaluation.options
    return {
        "command": evaluation.command,
        "data": evaluation.facts,
        "encoder": evaluation.encoder,
        "splits": options.splits,
        "seed": options.seed,
        "support": options.support,
        "max_rows": options.max_rows,
        "squared_error_scale": "{-1, +1}",
        "notes": list(evaluation.notes),
        "results": [plain(result) for result in evaluation.results],
    }


def by_evidence(done: Iterable[tuple[Result, Figures]]) -> str:
    """Return one line per protocol and head."""
    head = (
        "evidence", "head", "AUC", "error", "raw", "explained variance", "calibration error (chance)",
        "normal 50 / 68 / 90", "Beta 50 / 68 / 90", "z", "targets", "known prompts",
    )  # fmt: skip
    rows = [
        (
            result.protocol.name,
            result.head,
            _pair(found.mean.auc, found.spread.auc),
            _pair(found.mean.squared_error, found.spread.squared_error),
            _number(found.mean.raw_error),
            _pair(found.mean.explained_variance, found.spread.explained_variance),
            f"{_pair(found.calibration_error, found.calibration_spread)} ({_number(found.calibration_chance)})",
            _coverage(found.mean.normal),
            _coverage(found.mean.beta),
            _number(found.mean.z_deviation, 2),
            f"{found.targets:.0f}",
            f"{found.met:.0%}",
        )
        for result, found in done
    ]
    return table(head, rows)


def by_key(done: Iterable[tuple[Result, Figures]]) -> str:
    """Return one line per protocol, policy, version and head."""
    head = (
        "evidence", "policy", "version", "head", "AUC", "error", "raw", "explained variance", "calibration error (chance)",
        "normal 50 / 68 / 90", "Beta 50 / 68 / 90", "z",
    )  # fmt: skip
    rows = [
        (place, key, result.protocol.name, result.head, figures(result, key))
        for place, (result, _) in enumerate(done)
        for key in result.by_key()
    ]
    order = {name: place for place, _, name, _, _ in reversed(rows)}
    return table(
        head,
        [
            (
                protocol,
                key[0].replace("|", "\\|"),
                str(key[1]),
                name,
                *map(_number, (of.mean.auc, of.mean.squared_error, of.mean.raw_error, of.mean.explained_variance)),
                f"{_number(of.calibration_error)} ({_number(of.calibration_chance)})",
                _coverage(of.mean.normal),
                _coverage(of.mean.beta),
                _number(of.mean.z_deviation, 2),
            )
            for _, key, protocol, name, of in sorted(rows, key=lambda row: (order[row[2]], row[1], row[0]))
        ],
    )


def latency(done: Iterable[tuple[Result, Figures]]) -> str:
    """Return fit and answer times per protocol and head."""
    head = (
        "evidence",
        "head",
        "version",
        "rows of evidence",
        "fit, s (median)",
        f"values of {LATENCY_PROMPTS} prompts, ms",
    )
    rows = [
        (
            result.protocol.name,
            result.head,
            result.version,
            f"{found.support:.0f}",
            f"{np.median(result.fit_s):.3f}" if result.learns else NOTHING,
            f"{result.values_ms:.1f}",
        )
        for result, found in done
    ]
    return table(head, rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with columns aligned; a first cell like the one above it is left empty."""
    shown = [["" if place and row[0] == rows[place - 1][0] else row[0], *row[1:]] for place, row in enumerate(rows)]
    widths = [max(len(row[column]) for row in (head, *shown)) for column in range(len(head))]
    lines = [_line(head, widths), "|" + "|".join("-" * (width + 2) for width in widths) + "|"]
    return "\n".join([*lines, *(_line(row, widths) for row in shown)])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def _meanings(done: Iterable[tuple[Result, Figures]]) -> list[str]:
    meanings = {result.protocol.name: result.protocol.meaning for result, _ in done}
    return [f"- {name}: {meaning}" for name, meaning in meanings.items()]


def _number(figure: float, digits: int = 3) -> str:
    return NOTHING if math.isnan(figure) else f"{figure:.{digits}f}"


def _pair(figure: float, spread: float) -> str:
    return NOTHING if math.isnan(figure) else f"{figure:.3f}" + (f" ± {spread:.3f}" if spread else "")


def _coverage(shares: Sequence[float]) -> str:
    return " / ".join(_number(share, 2) for share in shares[:3])
