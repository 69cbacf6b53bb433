"""`python -m services.prior_api evaluate --data DIR`: the command's options, and the order in which things are done.

Tables go to standard output, progress to standard error, everything to files in the folder `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from services.prior_api.evaluate.contestants import Contestant
    from services.prior_api.evaluate.data import Outcomes
    from services.prior_api.evaluate.report import Evaluation
    from services.prior_api.evaluate.run import Options
    from services.prior_api.settings import Settings

PROGRAM = "services.prior_api evaluate"
MAX_SUPPORT = 4096
MAX_SPLITS = 100
DESCRIPTION = """\
Judge priors on your own outcomes: rows are held back, heads learn from the others and predict them.
Printed per kind of evidence and per policy and version: AUC, squared error, explained variance, calibration error,
coverage of intervals, and what a fit and an answer cost. Nothing leaves this machine.
Weights, devices and licences are those of the service's settings (ROLLOUT_BUDGET_PRIOR_*), as `--help` of the service
lists them, so that what is judged is what would serve."""
FORMATS = """\
what --data holds, one JSON object a line (other fields are ignored):
  outcomes.jsonl   {"policy": "run-7", "version": 40, "key": "sum-17", "successes": 3, "trials": 8}
                   version: a whole number that grows with training; successes: from 0 to trials, partial credit allowed
  prompts.jsonl    {"key": "sum-17", "text": "What is 17 + 25?"}
or V0's sample format:
  context.jsonl    {"model": "m", "step": 64, "dataset": "d", "id": "17", "score": 0.4}, score in [-1, 1], mean of ten
  prompts.json     {"d_17": "What is 17 + 25?"}

kinds of evidence (--protocols):
  own                   the same policy and version only
  unseen                and every other key, but no row of a target's prompt
  recurring             and every other key, target prompts included where others met them
  version               the newest version of each policy, from earlier versions alone
  few, new, zero-shot   a policy that is new: 32 own rows alone; with the other policies' rows; those without own rows
  new-recurring, zero-shot-recurring   the same, target prompts included where the other policies met them

what is written to --out:
  evaluation.md, evaluation.json (with all calibration curves), evaluation.png (needs matplotlib), and the encoder's
  features, so that the next run need not compute them

examples:
  python -m services.prior_api evaluate --data outcomes
  python -m services.prior_api evaluate --data outcomes --heads constant running_mean history --splits 2"""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.description, parser.epilog = DESCRIPTION, FORMATS
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of outcomes; formats below")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/evaluation"), metavar="DIR", help="default: runs/evaluation"
    )
    parser.add_argument(
        "--heads", nargs="+", metavar="HEAD",
        help="default: gp and the controls; `all` for every head there is; a wrong name lists them",
    )  # fmt: skip
    parser.add_argument(
        "--encoder", metavar="NAME",
        help="minilm, hf:FOLDER-OR-REPOSITORY or v0:CHECKPOINT; default: the service's setting, minilm without one",
    )  # fmt: skip
    parser.add_argument("--protocols", nargs="+", metavar="NAME", help="default: all; see below")
    parser.add_argument("--splits", type=_whole(1, MAX_SPLITS), default=5, metavar="N", help="random cuts; default: 5")
    parser.add_argument("--seed", type=_whole(0, 2**31), default=0, metavar="N", help="of the first; default: 0")
    parser.add_argument(
        "--support", type=_whole(1, MAX_SUPPORT), default=256, metavar="ROWS",
        help="own rows of a policy and version as evidence, and rows held back; default: 256",
    )  # fmt: skip
    parser.add_argument(
        "--max-rows", type=_whole(16, 8192), default=4096, metavar="ROWS",
        help="rows in one fit, newest versions first; a fit may cost their cube; default: 4096",
    )  # fmt: skip
    parser.add_argument(
        "--max-keys", type=_whole(1, 1000), default=12, metavar="N",
        help="policies and versions judged per kind of evidence; default: 12",
    )  # fmt: skip
    parser.add_argument("--threads", type=_whole(1, 256), metavar="N", help="default: the service's setting")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default: the service's setting")


def evaluate(given: argparse.Namespace, offline: Mapping[str, str]) -> int:
    """Run the command; return the exit status: 2 for what the user can mend, with one line that says what.

    Args:
        given: what `options` read.
        offline: environment that keeps libraries from asking a hub, for settings that do not allow it.
    """
    from services.prior_api.evaluate.data import DataError  # noqa: PLC0415  --help answers without loading the heads

    try:
        settings = _settings(given)
        os.environ.update({} if settings.hub else offline)
        evaluation = _evaluation(given, settings, sys.stderr)
        given.out.mkdir(parents=True, exist_ok=True)
        _write(evaluation, given.out, sys.stdout, sys.stderr)
    except (DataError, OSError) as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return 2
    return 0


def _evaluation(given: argparse.Namespace, settings: Settings, err: TextIO) -> Evaluation:
    import threadpoolctl  # type: ignore[import-untyped]  # noqa: PLC0415  it ships no types

    from services.prior_api.evaluate.data import DataError, facts, load  # noqa: PLC0415  as above
    from services.prior_api.evaluate.report import Evaluation  # noqa: PLC0415  as above
    from services.prior_api.evaluate.run import Material, evaluate  # noqa: PLC0415  as above

    names, chosen = _heads(given.heads), _options(given)
    outcomes = load(given.data)
    with threadpoolctl.threadpool_limits(settings.threads):
        contestants, vectors, encoder, notes = _prepared(settings, names, outcomes, given.out, err)
        if not contestants:
            raise DataError("; ".join(notes))
        results, left_out = evaluate(Material(outcomes, vectors), contestants, chosen, err)
    if not any(result.judgements for result in results):
        failures = [f"{result.head} under {result.protocol.name}: {result.failure}" for result in results]
        raise DataError("nothing could be judged: " + " ".join([*left_out, *failures]))
    return Evaluation(_command(given), facts(outcomes), encoder, chosen, results, [*outcomes.notes, *notes, *left_out])


def _heads(asked: Sequence[str] | None) -> list[str]:
    from services.prior_api.evaluate.contestants import DEFAULT, known  # noqa: PLC0415  as above

    if asked == ["all"]:
        return known()
    return _named("--heads", asked or DEFAULT, known())


def _options(given: argparse.Namespace) -> Options:
    from services.prior_api.evaluate.run import Options  # noqa: PLC0415  as above
    from services.prior_api.evaluate.splits import PROTOCOLS  # noqa: PLC0415  as above

    by_name = {protocol.name: protocol for protocol in PROTOCOLS}
    names = _named("--protocols", given.protocols or list(by_name), list(by_name))
    return Options(
        [by_name[name] for name in names], given.splits, given.seed, given.support, given.max_rows, given.max_keys
    )


def _prepared(
    settings: Settings, names: Sequence[str], outcomes: Outcomes, folder: Path, err: TextIO
) -> tuple[list[Contestant], dict[str, Any], str, list[str]]:
    """Return the heads, the features, the encoder in words, and what could not be loaded."""
    from services.prior_api import licences  # noqa: PLC0415  as above
    from services.prior_api.encoders import create  # noqa: PLC0415  as above
    from services.prior_api.evaluate import contestants, features  # noqa: PLC0415  as above

    controls = contestants.controls(names)
    learners = [name for name in names if name not in {control.name for control in controls}]
    if not learners:
        return controls, {}, "none is needed", []
    try:
        encoder = create(settings.encoder_choice, settings.placement())
        licences.require([encoder.part], settings.accept_licences)
        found = features.features(outcomes, encoder, folder, err)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        failures = [f"{name} cannot be loaded: encoder {settings.encoder}: {error}" for name in learners]
        return controls, {}, "none could be loaded", failures
    made, failures = contestants.learners(learners, settings, encoder)
    return [*made, *controls], found.vectors, _speed(encoder.name, found.computed, found.seconds), failures


def _settings(given: argparse.Namespace) -> Settings:
    """Return the service's settings from the environment; options override them."""
    from pydantic import ValidationError  # noqa: PLC0415  as above
    from pydantic_settings import SettingsError  # noqa: PLC0415  as above

    from services.kit.configuration import faults  # noqa: PLC0415  as above
    from services.prior_api.evaluate.data import DataError  # noqa: PLC0415  as above
    from services.prior_api.settings import Settings  # noqa: PLC0415  as above

    chosen = {"encoder": given.encoder, "threads": given.threads, "device": given.device}
    try:
        return Settings(**{name: value for name, value in chosen.items() if value is not None})
    except (ValidationError, SettingsError) as error:
        raise DataError(faults(error)) from error


def _speed(name: str, computed: int, seconds: float) -> str:
    if not computed:
        return f"{name}, features kept from an earlier run"
    return f"{name}, {computed} prompts in {seconds:.0f} s ({computed / max(seconds, 1e-9):.1f} a second)"


def _write(evaluation: Evaluation, folder: Path, out: TextIO, err: TextIO) -> None:
    from services.prior_api.evaluate import report  # noqa: PLC0415  as above
    from services.prior_api.evaluate.plot import plot  # noqa: PLC0415  as above

    text = report.markdown(evaluation)
    out.write(text)
    (folder / "evaluation.md").write_text(text, encoding="utf-8")
    (folder / "evaluation.json").write_text(json.dumps(report.document(evaluation), indent=1) + "\n", encoding="utf-8")
    try:
        plot(evaluation.results, folder / "evaluation.png")
        written = "evaluation.md, evaluation.json and evaluation.png"
    except ImportError as error:
        written = f"evaluation.md and evaluation.json (no plot: {error}; `pip install matplotlib` brings it)"
    err.write(f"{folder}: {written}\n")


def _named(option: str, names: Sequence[str], known: Sequence[str]) -> list[str]:
    from services.prior_api.evaluate.data import DataError  # noqa: PLC0415  as above

    strangers = [name for name in names if name not in known]
    if strangers:
        raise DataError(f"{option}: there is no {strangers[0]!r}; there are {', '.join(known)}")
    return list(dict.fromkeys(names))


def _command(given: argparse.Namespace) -> str:
    """Return what prints the same tables again, options at their defaults left out."""
    parser = argparse.ArgumentParser()
    options(parser)
    words = ["python", "-m", "services.prior_api", "evaluate", "--data", "FOLDER"]
    for action in parser._actions:  # noqa: SLF001  argparse has no public list of its options
        name = action.dest
        if name in ("help", "data", "out") or getattr(given, name) == action.default:
            continue
        value = getattr(given, name)
        words += [action.option_strings[0], *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def _whole(low: int, high: int) -> Any:
    """Return a reader of whole numbers from `low` to `high`, for argparse."""

    def number(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} does not lie in {low} to {high}")
        return value

    return number
