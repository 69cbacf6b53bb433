"""A real allocator on a socket, and the command as a shell would run it, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, SecretStr, TypeAdapter

from rollout_budget.cli.events import Away, Ended, Ready, Said
from rollout_budget.cli.live.sampling import Snapshot
from rollout_budget.cli.main import main
from services.allocator.app import create_app
from services.allocator.settings import Settings
from tests.allocator.databases import fresh_sqlite
from tests.served import served


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """What it printed, read as JSON."""
        return json.loads(self.out)


Command = Callable[..., Outcome]
Event = Ready | Snapshot | Away | Said | Ended
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def event(line: str) -> Event:
    """Read a line of a command that goes on, of whatever kind it says it is."""
    return _EVENTS.validate_json(line)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A running allocator, named by the environment with both keys; its data folder."""
    settings = Settings(data=tmp_path, database_url=SecretStr(fresh_sqlite(tmp_path)))
    with served(create_app(settings)) as url:
        monkeypatch.setenv("ROLLOUT_BUDGET_URL", url)
        monkeypatch.setenv("ROLLOUT_BUDGET_ADMIN_KEY", (tmp_path / "admin.key").read_text().strip())
        monkeypatch.setenv("ROLLOUT_BUDGET_KEY", (tmp_path / "team.key").read_text().strip())
        yield tmp_path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command; with `good`, the default, it must succeed."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*words: str, good: bool = True) -> Outcome:
        try:
            status = main(words)
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        found = Outcome(status, *capsys.readouterr())
        assert not good or found.status == 0, found.err
        return found

    return run
