"""The most telling of the cases, on one set of servers: each is a run of its own (G22, G23, G24).

All of them: `python -m tests.stages --cases all`, or `make soak ONLY=stages`.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from tests.stages.__main__ import Player
from tests.stages.cases import SHORT, STAGES, Case, everything, matrix
from tests.stages.checks import violations
from tests.stages.director import Outcome
from tests.stages.plant import planted
from tests.vllm_server import VllmSession

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.services,
    pytest.mark.timeout(900),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest.fixture(scope="module")
def vllm_port(vllm_session: VllmSession) -> int:
    """The session's own server is the first of two; no case kills it."""
    if vllm_session.missing:
        pytest.skip(vllm_session.missing)
    port = vllm_session.running().port
    assert port is not None
    return port


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def player(vllm_port: int, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Player]:
    async with planted(tmp_path_factory.mktemp("stages"), vllm_port=vllm_port) as plant:
        yield Player(plant)


@pytest.mark.parametrize("name", SHORT)
async def test_g22_g23_g24_whoever_is_struck_the_run_is_done_and_the_books_are_right(player: Player, name: str) -> None:
    """All steps, each once; ledger, trainer and vLLM agree; each token of its version; a killed run as undisturbed."""
    _, wrong = await player.play(Case.of(name))
    assert wrong == []


@pytest_asyncio.fixture(loop_scope="module")
async def undone(player: Player, tmp_path: Path) -> Outcome:
    """A copy of a run in which nothing happened, to be spoiled."""
    whole = await player.undisturbed()
    for source, name in ((whole.directory, "run"), (whole.record, "record")):
        shutil.copytree(source, tmp_path / name)
    return replace(whole, directory=tmp_path / "run", record=tmp_path / "record")


async def test_the_checks_find_what_is_wrong(undone: Outcome) -> None:
    """Nothing is wrong with a run in which nothing happened, and every kind of damage to it is found."""
    nothing = Case(())
    assert violations(nothing, undone, undone) == []
    assert undone.run is not None
    usage = undone.run.usage
    fewer = undone.run.model_copy(update={"usage": usage.model_copy(update={"committed": usage.committed - 1})})
    assert ["booked" in one for one in violations(nothing, replace(undone, run=fewer))] == [True]
    assert ["vLLM finished" in one for one in violations(nothing, replace(undone, finished=undone.finished + 1))] == [
        True
    ]
    lost = Case.of("lose-prior-values-2")
    assert any("never happened" in one for one in violations(lost, undone))
    silent = replace(undone, struck={lost.strikes[0]: 2})
    assert ["do not say that they had no prior" in one for one in violations(lost, silent)] == [True]
    weights = undone.directory / "weights"
    shutil.rmtree(weights / "v3")
    shutil.copytree(weights / "v2", weights / "v3")
    assert ["not those of version 3" in one for one in violations(nothing, undone)] == [True]
    step = undone.record / "step-2.jsonl"
    lines = step.read_text().splitlines(keepends=True)
    step.write_text("".join([*lines[:2], *lines[1:]]))
    assert any("on record twice" in one for one in violations(nothing, undone))
    metrics = undone.directory / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"step":3', '"step":2'))
    assert any("metrics.jsonl has steps" in one for one in violations(nothing, undone))


async def test_names_are_cases_and_every_stage_is_struck() -> None:
    cases = [*matrix(2), *everything(0)]
    assert [Case.of(str(case)) for case in cases] == cases
    assert {strike.stage for case in cases for strike in case.strikes} == set(STAGES)
    assert sorted(map(str, everything(0))) != sorted(map(str, everything(1)))
    assert list(map(str, everything(0))) == list(map(str, everything(0)))
