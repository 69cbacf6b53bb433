"""The evaluation end to end in one process, with an encoder that knows words and heads that fail on demand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.prior_api.evaluate import contestants, features, plot, report
from services.prior_api.evaluate.contestants import Contestant
from services.prior_api.evaluate.data import Outcomes, facts, load
from services.prior_api.evaluate.progress import Progress
from services.prior_api.evaluate.report import Evaluation
from services.prior_api.evaluate.run import Material, Options, Result, bounded, evaluate
from services.prior_api.evaluate.splits import PROTOCOLS, Protocol
from services.prior_api.evaluate.summary import figures
from services.prior_api.heads import CONTROLS, Context, Predictions, Predictor, Question
from services.prior_api.settings import Settings
from tests.paths import outcomes_folder
from tests.prior_api.evaluate.synthetic import law
from tests.prior_api.fakes import FakeEncoder


def options(*names: str, splits: int = 2, max_rows: int = 4096, max_keys: int = 12) -> Options:
    chosen = [protocol for protocol in PROTOCOLS if not names or protocol.name in names]
    return Options(chosen, splits, seed=0, support=30, max_rows=max_rows, max_keys=max_keys)


def judge(tmp_path: Path, outcomes: Outcomes, *heads: str, chosen: Options) -> tuple[list[Result], list[str]]:
    found = features.features(outcomes, FakeEncoder(), tmp_path, io.StringIO())
    made, failures = contestants.learners(heads, Settings(data=tmp_path), FakeEncoder())
    assert failures == []
    return evaluate(Material(outcomes, found.vectors), [*made, *contestants.controls(heads)], chosen, io.StringIO())


def explained(results: list[Result], protocol: str, head: str) -> float:
    (result,) = (one for one in results if (one.protocol.name, one.head) == (protocol, head))
    return figures(result).mean.explained_variance


def test_the_process_learns_what_words_mean_and_controls_do_not(tmp_path: Path) -> None:
    """Rates that depend on words: the process explains unseen prompts, more with other keys' rows; the mean does not."""
    outcomes = law(1, rows=120)
    results, notes = judge(tmp_path, outcomes, "gp", "running_mean", "history", chosen=options())
    assert notes == []
    assert {result.protocol.name for result in results} == {protocol.name for protocol in PROTOCOLS}
    assert explained(results, "unseen", "gp") > 0.4
    assert explained(results, "unseen", "gp") > explained(results, "own", "gp")
    assert explained(results, "new", "gp") > explained(results, "few", "gp")
    assert explained(results, "version", "gp") > 0.4
    for protocol in PROTOCOLS:
        assert explained(results, protocol.name, "running_mean") <= 0
    assert explained(results, "recurring", "history") > explained(results, "unseen", "history")


def test_controls_on_real_outcomes_do_as_documented() -> None:
    """On the public sample the running mean explains nothing, and a prompt's own past a little where prompts recur."""
    outcomes = load(outcomes_folder())
    chosen = Options([one for one in PROTOCOLS if one.name in ("unseen", "recurring")], 1, 0, 256, 4096, 12)
    controls = contestants.controls(["history", "running_mean", "constant"])
    results, notes = evaluate(Material(outcomes, {}), controls, chosen, io.StringIO())
    assert notes == []
    assert {figures(result).targets for result in results} == {1536}
    assert explained(results, "unseen", "history") == pytest.approx(explained(results, "unseen", "running_mean"))
    assert explained(results, "recurring", "running_mean") == pytest.approx(0, abs=0.02)
    assert explained(results, "recurring", "history") > 0.03
    assert explained(results, "recurring", "constant") < -0.1


def test_questions_hold_no_more_than_the_support(tmp_path: Path) -> None:
    """What a head is given under every protocol, histories and levels included, adds up to the support's rows alone."""
    outcomes = law(2)
    asked: list[tuple[Context, Question]] = []

    class Spy:
        name, version = "constant", "spy/1"

        def __init__(self, context: Context) -> None:
            self.context = context

        def values(self, question: Question) -> Predictions:
            asked.append((self.context, question))
            return CONTROLS["constant"].values(question)

    spy = Contestant("spy", Spy, learns=True)  # type: ignore[arg-type]  # a spy goes by no name of the API
    results, _ = evaluate(Material(outcomes, {}), [spy], options(splits=1), io.StringIO())
    assert all(not result.failure for result in results)
    for context, question in asked:
        own = [cell for cell in context.cells if cell.policy == question.owner[1]]
        assert sum(level.trials for level in question.levels) == sum(cell.trials for cell in own)
        histories = {(cell.key, cell.version) for cells in question.histories for cell in cells}
        assert histories <= {(cell.key, cell.version) for cell in own}


def test_a_head_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    def broken(_context: Context) -> Predictor:
        raise ArithmeticError("no fit exists")

    both = [Contestant("broken", broken, learns=True), *contestants.controls(["constant"])]
    results, _ = evaluate(Material(law(3), {}), both, options("own", splits=1), io.StringIO())
    assert [(result.head, result.failure, len(result.judgements)) for result in results] == [
        ("broken", "ArithmeticError: no fit exists", 0),
        ("constant", "", 4),
    ]
    text = report.markdown(_evaluation(law(3), results))
    assert "broken has no figures under own: ArithmeticError: no fit exists." in text


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "ROLLOUT_BUDGET_PRIOR_ACCEPT_LICENCES"),
        ({"accept_licences": ["tabpfn-2.5"], "tabpfn_weights": "/nowhere"}, "tabpfn cannot be loaded: "),
    ],
)
def test_heads_that_the_service_would_refuse_are_named(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    """TabPFN's weights are not for commercial use, and not there: as in the service, and the others go on."""
    made, failures = contestants.learners(["gp", "tabpfn"], Settings(data=tmp_path, **settings), FakeEncoder())
    assert [one.name for one in made] == ["gp"]
    assert len(failures) == 1
    assert reason in failures[0]


def test_what_the_bounds_leave_out_is_said(tmp_path: Path) -> None:
    """Fewer rows than the support has, fewer keys than there are, protocols that need another policy."""
    found, notes = judge(tmp_path, law(4), "constant", chosen=options("recurring", max_rows=40, max_keys=2))
    assert [len(result.by_key()) for result in found] == [2]
    assert notes == [
        "recurring: 2 of 4 policies and versions were judged (--max-keys).",
        "recurring: fits took 40 of up to 210 rows (--max-rows).",
    ]
    alone, notes = judge(tmp_path, law(4, policies=("m",)), "constant", chosen=options("own", "few"))
    assert [result.protocol.name for result in alone] == ["own"]
    assert notes[0].startswith("few is left out")


def test_the_bound_on_rows_keeps_every_policy_and_the_newest_versions() -> None:
    rows = [row for rows in law(5, rows=30).rows.values() for row in rows]
    kept = bounded(rows, 40)
    assert sorted((row.policy, row.version) for row in kept) == [("m", 5)] * 20 + [("n", 5)] * 20
    assert bounded(rows, 1000) == sorted(rows, key=lambda row: (row.policy, -row.version, row.prompt))


def test_features_are_computed_once(tmp_path: Path) -> None:
    """A second run asks the encoder nothing; a changed text is asked for alone, and nothing that was kept is lost."""
    outcomes = law(6)
    first = FakeEncoder()
    found = features.features(outcomes, first, tmp_path, io.StringIO())
    assert found.computed == len(outcomes.prompts) == len(first.texts)
    again = FakeEncoder()
    kept = features.features(outcomes, again, tmp_path, io.StringIO())
    assert (kept.computed, again.batches) == (0, [])
    assert all(np.array_equal(kept.vectors[item], vector) for item, vector in found.vectors.items())
    prompt = outcomes.prompts[0]
    changed = Outcomes(outcomes.rows, outcomes.texts | {prompt: "another text"})
    assert features.features(changed, again, tmp_path, io.StringIO()).computed == 1
    assert again.texts == ["another text"]
    assert features.features(outcomes, again, tmp_path, io.StringIO()).computed == 0


def test_the_same_evaluation_twice_gives_the_same_figures(tmp_path: Path) -> None:
    outcomes = law(7)
    one, other = (judge(tmp_path, outcomes, "gp", chosen=options("recurring"))[0] for _ in range(2))
    assert figures(one[0]).mean == figures(other[0]).mean


def test_figures_of_all_keys_are_the_means_of_those_of_each(tmp_path: Path) -> None:
    (result,), _ = judge(tmp_path, law(8), "history", chosen=options("recurring"))
    each = [figures(result, key) for key in result.by_key()]
    whole = figures(result)
    assert whole.mean.raw_error == pytest.approx(np.mean([one.mean.raw_error for one in each]))
    assert whole.bins.rows.sum() == sum(one.bins.rows.sum() for one in each) == 2 * whole.targets
    assert 0 < whole.met < 1


def test_report_and_plot_hold_every_head_and_key(tmp_path: Path) -> None:
    """The JSON document is valid without NaN, the Markdown tables have a line per key, the plot is a picture."""
    outcomes = law(9, policies=("a|b", "n"))
    results, _ = judge(tmp_path, outcomes, "gp", "constant", chosen=options("own", "recurring"))
    evaluation = _evaluation(outcomes, results)
    document = json.loads(json.dumps(report.document(evaluation), allow_nan=False))
    assert [(one["protocol"], one["head"], len(one["keys"])) for one in document["results"]] == [
        ("own", "gp", 4), ("own", "constant", 4), ("recurring", "gp", 4), ("recurring", "constant", 4),
    ]  # fmt: skip
    text = report.markdown(evaluation)
    assert text.count("a\\|b") == 2 * 2 * 2
    for table in (block for block in text.split("\n\n") if block.startswith("|")):
        assert len({line.replace("\\|", "").count("|") for line in table.strip().split("\n")}) == 1
    plot.plot(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "lines"), [(io.StringIO(), 1), (Terminal(), 1)])
def test_progress_ends_with_a_line_of_its_own(stream: io.StringIO, lines: int) -> None:
    progress = Progress(stream, "encoding", "prompts", 3)
    for _ in range(3):
        progress.add()
    assert stream.getvalue().count("\n") == lines
    assert "encoding: 3 of 3 prompts" in stream.getvalue()
    assert ("\r" in stream.getvalue()) == stream.isatty()


def _evaluation(outcomes: Outcomes, results: list[Result]) -> Evaluation:
    chosen: tuple[Protocol, ...] = tuple({result.protocol.name: result.protocol for result in results}.values())
    bounds = Options(chosen, splits=2, seed=0, support=30, max_rows=4096, max_keys=12)
    return Evaluation("the command", facts(outcomes), "fake/1", bounds, results, [])
