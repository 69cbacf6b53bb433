"""The comparison of methods: what counts as arriving, what is run again, and that a run is the trainer's own."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning import analysis, cells, results, runs, study
from benchmarks.learning.analysis import Family
from benchmarks.learning.cells import Cell
from benchmarks.learning.methods import ABLATIONS, ALL, METHODS, OURS, REFERENCE
from benchmarks.learning.priors import MAX_ROWS, Evidence, Features, GaussianPriors
from benchmarks.learning.report import write
from benchmarks.learning.results import Measured, Result
from benchmarks.learning.tuning import NotTuned, Rates
from rollout_budget.wire import EvidenceRow, Prompt


def _result(
    method: str, seed: int, accuracies: list[float], *, rate: float = 4e-4, pool: cells.Pool = "stream"
) -> Result:
    cell = Cell("sorting", pool, method, rate, seed)
    curve = [
        Measured(rollouts=100 * place, tokens=800 * place, seconds=place, accuracy=value)
        for place, value in enumerate(accuracies)
    ]
    steps = [
        results.Step(
            rollouts=point.rollouts, groups=10, accuracy=point.accuracy, grad_norm=1.0, entropy=0.5, clip_fraction=0.0,
            prior_explained=None,
        )
        for point in curve[1:]
    ]  # fmt: skip
    return Result(
        task=cell.task, pool=pool, method=method, rate=rate, seed=seed, digest=cell.digest, code="abc", machine="m",
        rollouts=curve[-1].rollouts, tokens=curve[-1].tokens, seconds=1.0, phases={}, curve=curve, steps=steps,
    )  # fmt: skip


def _line(start: float, slope: float, count: int = 21) -> list[float]:
    return [start + slope * place for place in range(count)]


def test_share_of_straight_lines_is_exact() -> None:
    """Twice the slope arrives in half of the way to the mean of the last four, plus the lag of the smoothing."""
    slow = Family.of([_result(REFERENCE, seed, _line(0.2, 0.01)) for seed in range(3)], 2000)
    fast = Family.of([_result(OURS, seed, _line(0.2, 0.02)) for seed in range(3)], 2000)
    level = 0.2 + 0.01 * 18.5
    assert slow.finals == pytest.approx([level] * 3)
    share = analysis.share_to_reach(fast, slow)
    assert share.value == pytest.approx((9.25 + 1) / 20, abs=0.01)
    assert (share.low, share.high) == pytest.approx((share.value, share.value))


def test_a_method_that_some_seeds_keep_from_arriving_has_an_open_interval() -> None:
    """Two of three seeds arrive; draws with enough of the third never do, and the upper end says so."""
    slow = Family.of([_result(REFERENCE, seed, _line(0.2, 0.01)) for seed in range(3)], 2000)
    mixed = Family.of([_result(OURS, seed, _line(0.2, slope)) for seed, slope in enumerate((0.02, 0.02, -0.005))], 2000)
    share = analysis.share_to_reach(mixed, slow)
    assert 0.5 < share.value <= 1.0
    assert share.low < share.value
    assert math.isinf(share.high)


def test_only_shared_seeds_are_compared() -> None:
    better = Family.of([_result(OURS, seed, _line(0.3, 0.01)) for seed in (0, 1, 7)], 2000)
    reference = Family.of([_result(REFERENCE, seed, _line(0.2, 0.01)) for seed in (1, 0, 3)], 2000)
    assert analysis.gain(better, reference).value == pytest.approx(0.1)


def test_a_smoothed_curve_knows_nothing_of_what_follows() -> None:
    jump = _result(OURS, 0, [0.0] * 5 + [1.0] * 5)
    _, values = analysis.smoothed(jump, lambda point: point.rollouts)
    assert values[4] == 0.0
    assert values[5] == pytest.approx(1 / 3)
    assert values[7] == 1.0


def test_the_rate_is_the_one_with_the_best_end_and_ablations_take_that_of_ours() -> None:
    found = [
        _result(method, seed, _line(0.2, slope), rate=rate, pool=pool)
        for method, best in ((REFERENCE, 4e-4), (OURS, 2e-4))
        for rate in cells.RATES
        for pool, seed in zip(cells.POOLS, cells.TUNING_SEEDS, strict=True)
        for slope in [0.02 if rate == best else 0.01]
    ]
    rates = Rates.from_results(found)
    assert rates.of("sorting", REFERENCE) == 4e-4
    assert {rates.of("sorting", name) for name, method in ABLATIONS.items() if method.rate_of == OURS} == {2e-4}
    with pytest.raises(NotTuned, match=r"benchmarks\.learning tune"):
        rates.of("sorting", "SPO")


def test_a_study_goes_on_where_it_was_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results of other files count; a line that was cut short does not, nor does one of other settings."""
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    first, second = (_result(REFERENCE, seed, [0.1, 0.2]) for seed in (0, 1))
    results.append(here, first)
    with here.open("a") as lines:
        lines.write('{"task": "sort')
    results.append(here, second)
    results.append(there, _result(OURS, 0, [0.1, 0.2]).model_copy(update={"digest": "of other settings"}))
    ours = study.Study(here, [here, there], tmp_path)
    assert {result.cell for result in ours.results()} == {first.cell, second.cell}
    assert ours.run([first.cell, second.cell])
    assert "2 of 2 runs are done, 0 to go" in capsys.readouterr().out
    assert results.merge([here, there], tmp_path / "all.jsonl") == 3
    assert len(results.read([tmp_path / "all.jsonl"])) == 3


def test_every_method_is_a_configuration_and_ablations_change_one_thing() -> None:
    """Names that differ in nothing but themselves are run once."""
    configs = {name: Cell("sorting", "stream", name, 4e-4, 0).config() for name in ALL}
    assert {config.learner.lr for config in configs.values()} == {4e-4}
    assert configs[REFERENCE].allocator.k_init == configs[REFERENCE].allocator.k_max == 16
    rates = Rates({("sorting", name): {4e-4: 0.5} for name in METHODS})
    extra = {cell.method for cell in study.ablations(rates, "sorting")}
    ours = configs[OURS].model_copy(update={"run": configs[OURS].run})
    for name in extra:
        assert configs[name].allocator != ours.allocator
    assert f"ours, k_init {ours.allocator.k_init}" not in extra
    assert "ours, prompts uniform" not in extra
    order = study.comparison(rates, tasks=["sorting"])
    assert [cell.seed for cell in order] == sorted(cell.seed for cell in order)
    assert order[0].method == REFERENCE


async def test_the_process_learns_from_this_run_alone_and_counts_rows_once(tmp_path: Path) -> None:
    """Evidence moves the value of its prompt and of one like it; a repeated row changes nothing; controls stay theirs."""
    features = Features(tmp_path)
    features._vectors = dict(zip("abc", np.eye(3, features.width + features.surface, dtype=np.float32), strict=True))
    priors = GaussianPriors(features)
    prompts = [Prompt(key=name, text=name) for name in "abc"]
    before = await priors.values("t", "p", 0, prompts, "gp")
    rows = [EvidenceRow(id="1", key="a", version=0, successes=8, trials=8), EvidenceRow(id="2", key="b", version=0, successes=0, trials=8)]  # fmt: skip
    await priors.add_evidence("t", "p", rows)
    first = await priors.values("t", "p", 1, prompts, "gp")
    await priors.add_evidence("t", "p", rows)
    again = await priors.values("t", "p", 1, prompts, "gp")
    assert before.values[0].value == pytest.approx(before.values[1].value)
    assert first.values[0].value > first.values[2].value > first.values[1].value
    assert again == first
    assert first.evidence_version == 2
    assert (await priors.values("t", "p", 1, prompts, "constant")).values[0].value == 0.5


def test_a_fit_takes_the_newest_evidence() -> None:
    evidence = Evidence()
    evidence.learn_texts([Prompt(key=str(key), text=str(key)) for key in range(700)])
    for version in range(2):
        evidence.add("p", [EvidenceRow(id=f"{version}-{key}", key=str(key), version=version, successes=1, trials=2) for key in range(700)])  # fmt: skip
    newest = evidence.newest(MAX_ROWS)
    assert sum(cell.version == 1 for cell in newest) == 700
    assert len(newest) == MAX_ROWS


def test_a_run_is_the_trainers_own_and_its_result_can_be_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference and ours in miniature: drawn rollouts, curve and steps are there, seeds decide, the page shows both."""
    small = {"run.rollouts": 96, "rollouts.per_step": 32, "evaluation.prompts": 16, "policy.demo.warmup_steps": 3}
    monkeypatch.setattr(cells, "COMMON", {**cells.COMMON, **small})
    monkeypatch.setattr(cells, "TASKS", {"sorting": {"task.name": "sorting", "task.sorting.levels": [1], **small}})
    monkeypatch.setattr(cells, "STREAMS", {"sorting": 200})
    found = [
        runs.run(Cell("sorting", "stream", method, 4e-4, seed), tmp_path / "cache", "code")
        for method in (REFERENCE, "SPO")
        for seed in (0, 1, 1)
    ]
    assert all(result.rollouts == 96 and result.curve[0].rollouts == 0 for result in found)
    assert {step.groups for step in found[0].steps} == {2}
    assert {step.groups for step in found[3].steps} == {32}
    assert found[4].curve[-1].tokens == found[5].curve[-1].tokens != found[3].curve[-1].tokens
    write([found[0], found[1], found[3], found[4]], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "GRPO-16" in page
    assert "<svg" in page
    assert not re.search(r"(src|href)=\"(?!#)|@import|url\((?!#)", page)
    assert (tmp_path / "report" / "sorting-stream-accuracy-rollouts.png").is_file()
