"""The soak, for seconds: each layer does its work, counts it, and what it finds ends in the table and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.simulation.mutations import MUTATIONS
from tests.soak.__main__ import LAYERS, main
from tests.soak.result import Result, table


@pytest.mark.parametrize("layer", ["simulation", "machine"])
def test_a_pure_layer_counts_what_it_did(layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "soak.json"
    assert main(["--minutes", "0.01", "--only", layer, "--seed", "3", "--json", str(path)]) == 0
    (found,) = json.loads(path.read_text())["layers"]
    assert found["layer"] == layer
    assert found["operations"] > 1000
    assert found["violations"] == []
    assert f"{layer}  " in capsys.readouterr().out


@pytest.mark.services
@pytest.mark.postgres
def test_g09_g10_g22_the_processes_layer_keeps_the_books(tmp_path: Path) -> None:
    """One short round on SQLite: kills, a bad network, and at the end nothing is missing."""
    path = tmp_path / "soak.json"
    assert main(["--minutes", "0.25", "--only", "processes", "--seed", "3", "--json", str(path)]) == 0
    (found,) = json.loads(path.read_text())["layers"]
    assert found["operations"] > 0
    assert sum(found["faults"].values()) > 0


@pytest.mark.services
def test_g20_all_phases_of_schemathesis_find_nothing(tmp_path: Path) -> None:
    """Examples, coverage, fuzzing and stateful links, on a team's routes, the admin's and the prior service's."""
    path = tmp_path / "soak.json"
    assert main(["--minutes", "0.2", "--only", "contract", "--seed", "3", "--json", str(path)]) == 0
    (found,) = json.loads(path.read_text())["layers"]
    assert len(found["notes"]) == 3
    assert found["operations"] > 300


def test_a_violation_is_in_the_table_and_in_the_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--minutes", "0.2", "--only", "simulation", "--seed", "0", "--json", str(tmp_path / "soak.json")]
    with MUTATIONS["no-fallback"]():
        assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "VIOLATION G22" in said
    assert "python -m tests.simulation --seed 0 --steps" in said


def test_the_table_adds_up() -> None:
    shown = table([Result("one", "steps", 60.0, 1200), Result("two", "calls", 30.0, 300)])
    assert "1.5 minutes, 1,500 operations, 0 faults, 0 violations" in shown
    assert "1,200" in shown


@pytest.mark.parametrize("wrong", [["--minutes", "0"], ["--only", "everything"], ["--minutes", "soon"]])
def test_what_cannot_be_used_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2
    assert "error: argument" in capsys.readouterr().err


def test_help_names_every_layer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(layer in said for layer in LAYERS)
