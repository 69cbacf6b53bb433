"""The commands that keep a database: not beside a service on one file, and never on a database that is not there."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.allocator.__main__ import main
from services.kit import database
from services.kit.database import Unreachable, alone
from tests.allocator.databases import fresh_sqlite

COMMANDS = [["restored"], ["prune"], ["archive", "--to", "archive"], ["archive", "--to", "archive", "--verify"]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder as the embedded mode leaves it."""
    made = tmp_path / "data"
    made.mkdir()
    Path(fresh_sqlite(made).removeprefix("sqlite:///")).rename(made / "allocator.db")
    return made


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_mistyped_folder_is_no_database_and_none_is_made(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the file that is missing, and 2; the folder is not made either."""
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--data", "dta"]) == 2
    assert capsys.readouterr().err == (
        "services.allocator: there is no database at dta/allocator.db: "
        "name its folder with --data, or its file in the settings\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [*COMMANDS[:3], ["migrate"]], ids=" ".join)
def test_a_file_that_a_service_serves_from_is_refused(
    command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its requests would wait for the command's transactions; once the service has stopped, the command runs."""
    monkeypatch.chdir(folder.parent)
    database = folder / "allocator.db"
    before = database.read_bytes()
    with alone(f"sqlite:///{database}"):
        assert main([*command, "--data", str(folder)]) == 2
        assert capsys.readouterr().err == (
            f"services.allocator: another process serves from {database}: stop it, run this, and start it again\n"
        )
        assert database.read_bytes() == before
    assert main([*command, "--data", str(folder)]) == 0


def test_what_only_reads_runs_beside_the_service(folder: Path, tmp_path: Path) -> None:
    """`archive --verify` waits for no writer and keeps none waiting."""
    with alone(f"sqlite:///{folder / 'allocator.db'}"):
        assert main(["archive", "--to", str(tmp_path / "archive"), "--verify", "--data", str(folder)]) == 0


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_file_without_tables_says_what_to_do(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no database of ours yet."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "allocator.db").touch()
    assert main([*command, "--data", str(tmp_path)]) == 2
    assert "run `python -m services.allocator migrate` first" in capsys.readouterr().err


def test_days_and_their_faults(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A day that has not ended, and one that is none, are one line each."""
    tomorrow = datetime.now(UTC).date().replace(year=2999).isoformat()
    archive = ["archive", "--to", str(tmp_path / "archive"), "--data", str(folder), "--before"]
    assert main([*archive, tomorrow]) == 2
    assert "only days that are over can be archived" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*archive, "yesterday"])
    assert "write it as 2026-08-01" in capsys.readouterr().err


def test_migrate_waits_for_a_database_that_is_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first connections are refused; once the server answers, the schema is made; without `--wait-s` it is refused."""
    tries: list[float] = []

    def starting(_url: str) -> None:
        tries.append(0.0)
        if len(tries) < 3:
            raise Unreachable("no connection yet")

    monkeypatch.setattr(database, "probe", starting)
    monkeypatch.setattr(database, "PROBE_EVERY_S", 0.01)
    assert main(["migrate", "--data", str(tmp_path)]) == 2
    assert main(["migrate", "--data", str(tmp_path), "--wait-s", "5"]) == 0
    assert len(tries) == 3
    assert (tmp_path / "allocator.db").stat().st_size > 0
