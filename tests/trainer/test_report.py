"""The report: figures by hand, a page that needs nothing from outside, honest words about few seeds."""

from __future__ import annotations

import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from trainer.cli import app
from trainer.config import load
from trainer.errors import ConfigError
from trainer.metrics import StepMetrics
from trainer.report import compare, text_table, write_report
from trainer.report.table import COLUMNS, cells

GRPO = ("allocator.estimator=group_mean", "allocator.stopping=fixed", "allocator.k_init=16", "run.name=GRPO, 16")
OURS = ("run.name=ours <fast> & small",)


def _run(folder: Path, overrides: tuple[str, ...], accuracies: list[float], *, seed: int = 0, group: int = 4) -> Path:
    """Write a run of 100 rollouts a step with a measurement every step."""
    folder.mkdir()
    config = load(None, [*overrides, f"run.seed={seed}"])
    (folder / "config.json").write_text(config.model_dump_json())
    rows = [
        StepMetrics(
            step=step,
            version=step,
            elapsed_s=2.0 * step,
            accuracy=accuracy if step else None,
            held_out_accuracy=accuracy,
            groups=100 // group if step else 0,
            mean_group_size=float(group) if step else None,
            rollouts=100 if step else 0,
            rollouts_total=100 * step,
            rollouts_saved=(16 - group) * (100 // group) * step,
            tokens_total=400 * step,
            prior_squared_error=0.05 if step else None,
            prior_explained_variance=0.4 if step else None,
        )
        for step, accuracy in enumerate(accuracies)
    ]
    (folder / "metrics.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    slow = _run(tmp_path / "slow", GRPO, [0.2, 0.25, 0.3, 0.35, 0.4], group=16)
    fast = _run(tmp_path / "fast", OURS, [0.2, 0.3, 0.4, 0.5, 0.6])
    return [slow, fast]


def test_figures_by_hand(runs: list[Path]) -> None:
    """Means of up to three measurements; the first crossing of the reference's final mean, between two of them."""
    comparison = compare(runs)
    assert comparison.reference.name == "GRPO, 16"
    assert comparison.target == pytest.approx(0.35)
    slow, fast = comparison.methods
    assert fast.runs[0].end == pytest.approx(0.5)
    assert fast.runs[0].start == pytest.approx(0.2)
    # ours' means: .2 at 0, .25 at 100, .3 at 200, .4 at 300 rollouts, so .35 is reached half way between the last two
    assert fast.rollouts_to(comparison.target) == pytest.approx(250)
    assert slow.rollouts_to(comparison.target) == pytest.approx(400)
    assert fast.rollouts_to(0.9) == math.inf
    row = dict(zip(COLUMNS, cells(comparison)[1], strict=True))
    assert row["rollouts to reach the reference"] == "250"
    assert row["share of the reference's"] == "62%"
    assert row["mean group"] == "4.0"
    assert row["wall-clock"] == "8 s"


def test_a_method_that_never_arrives_says_so(tmp_path: Path) -> None:
    """No share is invented for it."""
    good = _run(tmp_path / "good", GRPO, [0.2, 0.5, 0.5, 0.5, 0.5])
    bad = _run(tmp_path / "bad", OURS, [0.2, 0.2, 0.2, 0.2, 0.2])
    row = dict(zip(COLUMNS, cells(compare([good, bad]))[1], strict=True))
    assert row["rollouts to reach the reference"] == "not reached"
    assert row["share of the reference's"] == "-"


def test_seeds_are_told_as_what_they_are(runs: list[Path], tmp_path: Path) -> None:
    """One seed is called one seed; several are averaged, with their range."""
    assert any("One seed per method" in note for note in compare(runs).notes)
    second = _run(tmp_path / "second", OURS, [0.2, 0.3, 0.4, 0.5, 0.9], seed=1)
    comparison = compare([*runs, second])
    assert any("ours <fast> & small: 2" in note for note in comparison.notes)
    row = dict(zip(COLUMNS, cells(comparison)[1], strict=True))
    assert row["at end"] == "0.550 [0.500, 0.600]"


def test_a_reference_of_several_seeds_reaches_its_own_mean(tmp_path: Path) -> None:
    """Seeds are averaged before the crossing is looked for: one that stays below the mean end does not spoil it."""
    low = _run(tmp_path / "low", GRPO, [0.2, 0.2, 0.3, 0.3, 0.3])
    high = _run(tmp_path / "high", GRPO, [0.2, 0.4, 0.5, 0.5, 0.5], seed=1)
    comparison = compare([low, high])
    assert comparison.target == pytest.approx(0.4)
    assert comparison.reference.rollouts_to(comparison.target) == pytest.approx(400)
    assert dict(zip(COLUMNS, cells(comparison)[0], strict=True))["share of the reference's"] == "100%"


def test_runs_that_differ_in_more_than_their_method_are_named(tmp_path: Path) -> None:
    """Another learning rate is another experiment."""
    first = _run(tmp_path / "first", GRPO, [0.2, 0.3])
    other = _run(tmp_path / "other", (*OURS, "learner.lr=1e-5"), [0.2, 0.3])
    assert any(
        "differ in more than their method: settings of learner" in note for note in compare([first, other]).notes
    )


class _Outside(HTMLParser):
    """Collects tags, and every address that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = {"src", "href", "xlink:href", "data", "srcset"}
        self.fetched += [value for name, value in attrs if name in names and value and not value.startswith("#")]


def test_the_page_opens_offline(runs: list[Path], tmp_path: Path) -> None:
    """One file, nothing fetched, no script, colours from CSS for both schemes, every picture also a PNG."""
    page = write_report(compare(runs), tmp_path / "report")
    text = page.read_text()
    parser = _Outside()
    parser.feed(text)
    assert parser.fetched == []
    assert "script" not in parser.tags
    assert parser.tags.count("svg") == 8
    assert "prefers-color-scheme: dark" in text
    assert re.findall(r"#0[12]0[12][0-9a-f]{2}", text) == []
    assert "var(--series-1)" in text
    assert "@import" not in text
    assert "ours &lt;fast&gt; &amp; small" in text
    assert "<fast>" not in text
    pictures = sorted(path.name for path in page.parent.glob("*.png"))
    assert len(pictures) == 8
    assert all((page.parent / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


def test_the_command_prints_the_table_and_writes_the_page(runs: list[Path], tmp_path: Path) -> None:
    """`python -m trainer report A B --out DIR`."""
    told = CliRunner().invoke(app, ["report", *map(str, runs), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert told.exit_code == 0
    assert "not counted" not in told.output
    assert (tmp_path / "out" / "report.html").is_file()
    console = Console(width=220, record=True, file=io.StringIO())
    console.print(text_table(compare(runs)))
    table = console.export_text()
    assert "GRPO, 16 (reference)" in table
    assert "62%" in table


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, runs: list[Path]) -> None:
    """A folder without metrics, and a reference that nobody is called."""
    told = CliRunner().invoke(app, ["report", str(tmp_path)], catch_exceptions=False)
    assert told.exit_code == 2
    assert "is no run" in told.output
    with pytest.raises(ConfigError, match="no run's method is called 'PPO'; there are 'GRPO, 16'"):
        compare(runs, reference="PPO")


def test_a_run_that_goes_on_can_be_read(runs: list[Path]) -> None:
    """A line that is being written is left out."""
    with (runs[0] / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 5, "vers')
    assert compare(runs).methods[0].runs[0].last.step == 4
