"""`python -m tests.mutations`: take the mechanism of each guarantee out, and see its tests fail.

Every mutation is applied to a copy of the tracked files, alone; then its tests run there. A mutation that its tests do
not notice *survives*, and the command ends with status 1. `--write` puts the result into docs/guarantees.md.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mutations.catalogue import CATALOGUE, Mutation
from tests.paths import ROOT

DOCUMENT = ROOT / "docs" / "guarantees.md"
BEGIN, END = "<!-- mutations: begin -->", "<!-- mutations: end -->"
TIMEOUT_S = 240
"""Longest run of one mutation's tests: a mutation that makes them hang is noticed too."""
FAILED = re.compile(r"^(?:FAILED|ERROR) \S+?::(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the tests of a mutation said: the names of those that failed; none means that it survived."""

    mutation: Mutation
    failed: tuple[str, ...]


@contextmanager
def copied() -> Iterator[Path]:
    """Give a folder with the files of the working tree, but those that git ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    with tempfile.TemporaryDirectory(prefix="rb-mutations-") as name:
        folder = Path(name)
        for file in filter(None, listed.stdout.split("\0")):
            if (ROOT / file).is_file():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, folder / file)
        yield folder


def tried(mutation: Mutation, folder: Path) -> Outcome:
    """Apply a mutation in `folder`, run its tests there, and take it back.

    Raises:
        RuntimeError: pytest could not run them at all.
    """
    target = folder / mutation.file
    before = target.read_text()
    target.write_text(mutation.applied(before))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        *mutation.tests,
    ]
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return Outcome(mutation, ("no end within the time",))
    finally:
        target.write_text(before)
    if run.returncode == 0:
        return Outcome(mutation, ())
    failed = tuple(dict.fromkeys(FAILED.findall(run.stdout)))
    if run.returncode != 1 or not failed:
        raise RuntimeError(
            f"{mutation.guarantee}: pytest ended with {run.returncode}\n{run.stdout[-2000:]}{run.stderr}"
        )
    return Outcome(mutation, failed)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a Markdown table."""
    rows = [
        f"| {one.mutation.guarantee} | `{one.mutation.file}` | {one.mutation.what} | "
        f"{', '.join(f'`{name}`' for name in one.failed) or '**none: it survived**'} |"
        for one in outcomes
    ]
    return "\n".join(["| # | where | taken out | what failed first |", "|---|---|---|---|", *rows])


def written(document: str, rows: str) -> str:
    """Return the document with the table between its two marks."""
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{rows}\n{END}{tail}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mutations; return 1 if one survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--only", default="", help="comma-separated guarantees, like G01,G05; all by default")
    parser.add_argument("--list", action="store_true", help="print what would be tried, and stop")
    parser.add_argument("--write", action="store_true", help="write the table into docs/guarantees.md")
    options = parser.parse_args(arguments)
    wanted = {name.strip().upper() for name in options.only.split(",") if name.strip()}
    unknown = wanted - {mutation.guarantee for mutation in CATALOGUE}
    if unknown:
        parser.error(f"no mutation of {', '.join(sorted(unknown))}; --list shows those there are")
    if wanted and options.write:
        parser.error("--write needs all of them: leave out --only")
    chosen = [mutation for mutation in CATALOGUE if not wanted or mutation.guarantee in wanted]
    if options.list:
        _say(*(f"{one.guarantee}  {one.file}: {one.what}" for one in chosen))
        return 0
    outcomes = []
    with copied() as folder:
        for number, mutation in enumerate(chosen, 1):
            outcomes.append(tried(mutation, folder))
            verdict = outcomes[-1].failed[0] if outcomes[-1].failed else "SURVIVED"
            _say(f"[{number}/{len(chosen)}] {mutation.guarantee} {mutation.what}: {verdict}")
    if options.write:
        DOCUMENT.write_text(written(DOCUMENT.read_text(), table(outcomes)))
    survivors = sum(not one.failed for one in outcomes)
    _say(f"{len(outcomes)} mutations tried, {survivors} survived")
    return int(survivors > 0)


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
