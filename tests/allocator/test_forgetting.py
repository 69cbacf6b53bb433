"""What archive and prune do to a running service and on the command line: finished runs are forgotten, no id takes effect twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.allocator.__main__ import main
from services.allocator.database.archive import Archive, prune
from tests.allocator.databases import fresh_sqlite
from tests.allocator.running import running

DAY_S = 86_400.0


async def test_g05_what_is_forgotten_takes_no_effect_again(any_database: str, tmp_path: Path) -> None:
    """After a prune, calls of a finished run are refused as of a run that has ended; a run that goes on keeps its ids."""
    async with running(tmp_path, any_database) as allocator:
        headers = await allocator.new_key("team")

        async def send(path: str, body: object = None) -> tuple[int, Any]:
            answer = await allocator.http.post(f"/v1/{path}", json=body, headers=headers)
            return answer.status_code, answer.json()

        opening = {"groups": [{"group_id": "g", "prompt_key": "k"}]}
        closing = {"groups": [{"group_id": "g", "used": 1}]}
        spec = {"policy": "p", "k_init": 2}
        for run in ("ended", "going"):
            await send("runs", {"run_id": run, **spec})
            await send(f"runs/{run}/groups/open", opening)
            await send(f"runs/{run}/groups/close", closing)
        await send("runs/ended/finish")
        later = 2 * DAY_S
        allocator.service.store.clock_offset_s = lambda: later
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).date()
        database = allocator.service.database
        assert sum((await prune(database, tomorrow)).values()) == 0  # its entries are there still
        _ = [part async for part in Archive(database, tmp_path / "archive", later).store(tomorrow)]
        usage = (await allocator.http.get("/v1/usage", headers=headers)).json()
        assert await prune(database, tomorrow) == {"reservations": 1, "groups": 1, "plans": 0}
        assert (await allocator.http.get("/v1/usage", headers=headers)).json() == usage
        assert (await send("runs/ended/groups/open", opening))[1]["code"] == "run-finished"
        assert (await send("runs/ended/groups/close", closing))[0] == 404
        assert (await send("runs/ended/groups/observe", {"groups": [{"group_id": "g", "outcomes": [1]}]}))[0] == 404
        assert (await send("runs", {"run_id": "ended", **spec}))[1]["status"] == "finished"
        assert (await send("runs/going/groups/open", opening))[0] == 200
        assert (await send("runs/going/groups/close", closing))[0] == 200
        assert (await allocator.http.get("/v1/usage", headers=headers)).json() == usage
        assert await allocator.service.audit() == 0


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """They say what they did in a line, refuse a wrong day in one, and answer 1 where something is wrong."""
    url = fresh_sqlite(tmp_path)
    monkeypatch.setenv("ROLLOUT_BUDGET_ALLOCATOR_DATABASE_URL", url)
    folder = str(tmp_path / "archive")
    assert main(["archive", "--to", folder, "--before", "2026-01-01"]) == 0
    assert capsys.readouterr().out == "nothing to archive of the days before 2026-01-01\n"
    assert main(["archive", "--to", folder, "--verify"]) == 0
    assert "every file is there" in capsys.readouterr().out
    assert main(["prune"]) == 0
    assert capsys.readouterr().out == "0 reservations, 0 groups, 0 plans forgotten\n"
    assert main(["archive", "--to", folder, "--before", "2999-01-01"]) == 2
    assert "only days that are over" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        main(["prune", "--before", "yesterday"])
    assert refused.value.code == 2
    monkeypatch.setenv("ROLLOUT_BUDGET_ALLOCATOR_DATABASE_URL", f"sqlite:///{tmp_path / 'new.db'}")
    assert main(["prune"]) == 2
    assert "there is no database" in capsys.readouterr().err
    (tmp_path / "new.db").touch()
    assert main(["prune"]) == 2
    assert "migrate" in capsys.readouterr().err
