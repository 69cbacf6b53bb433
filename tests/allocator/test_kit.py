"""The kit that both services stand on: key files, database errors, metrics of requests."""

from __future__ import annotations

import asyncio
import importlib
import socket
import stat
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from services.allocator.settings import Settings as AllocatorSettings
from services.kit import http
from services.kit.configuration import faults, listed
from services.kit.database import connect
from services.kit.keys import ensure_file
from services.kit.serve import Server, run
from services.prior_api.settings import Settings as PriorSettings


def test_a_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    """Whoever asks again reads the same token; nothing else is left in the folder."""
    path = tmp_path / "folder" / "admin.key"
    token = ensure_file(path)
    assert ensure_file(path) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", ["", "\n", "short"])
def test_g16_a_key_file_cut_short_is_refused(tmp_path: Path, content: str) -> None:
    """An empty secret would be the secret of every request without a key."""
    path = tmp_path / "admin.key"
    path.write_text(content)
    with pytest.raises(ValueError, match="holds no token"):
        ensure_file(path)


async def test_database_errors_show_no_parameters(tmp_path: Path) -> None:
    """A statement that fails is logged; what it was about may be a prompt."""
    engine = connect(f"sqlite:///{tmp_path / 'x.db'}")
    try:
        with pytest.raises(DBAPIError) as raised:
            async with engine.begin() as connection:
                await connection.execute(text("INSERT INTO nowhere VALUES (:prompt)"), {"prompt": "a secret prompt"})
    finally:
        await engine.dispose()
    assert "a secret prompt" not in str(raised.value)


async def test_a_database_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """It holds prompts; so do the files that SQLite keeps beside it."""
    engine = connect(f"sqlite:///{tmp_path / 'x.db'}")
    try:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE t (x)"))
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}  # noqa: ASYNC240  a test's folder
    finally:
        await engine.dispose()
    assert modes == dict.fromkeys(["x.db", "x.db-wal", "x.db-shm"], 0o600)


COMMANDS = [
    ("services.allocator", "ROLLOUT_BUDGET_ALLOCATOR_", "serve"),
    ("services.allocator", "ROLLOUT_BUDGET_ALLOCATOR_", "migrate"),
    ("services.prior_api", "ROLLOUT_BUDGET_PRIOR_", "serve"),
]
UNUSABLE = {
    "a file as its folder": ({"DATA": "FOLDER/file"}, "file"),
    "an unknown scheme": ({"DATABASE_URL": "mysql://u:hidden@h/d"}, "neither sqlite nor postgresql"),
    "no URL": ({"DATABASE_URL": "hidden"}, "cannot be read"),
    "nobody listens": ({"DATABASE_URL": "postgresql://u:hidden@127.0.0.1:1/d"}, "127.0.0.1:1/d"),
}


@pytest.mark.parametrize("called", COMMANDS, ids=lambda called: f"{called[0]} {called[2]}")
@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_is_told_in_one_line(
    called: tuple[str, str, str],
    case: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Folder, scheme, address: status 2 and one line with the cause, never a traceback or a password."""
    module, prefix, command = called
    (tmp_path / "file").touch()
    settings, cause = UNUSABLE[case]
    monkeypatch.setenv(f"{prefix}DATA", str(tmp_path / "data"))
    for name, value in settings.items():
        monkeypatch.setenv(prefix + name, value.replace("FOLDER", str(tmp_path)))
    main = importlib.import_module(f"{module}.__main__").main
    assert main([command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{module}: ")
    assert cause in line
    assert "hidden" not in line


async def test_a_server_says_where_it_listens_and_where_its_keys_are(tmp_path: Path) -> None:
    """One line, with the port that it really has."""
    server = Server(FastAPI(title="it"), host="127.0.0.1", port=0, notice_s=0.0, key_files=[tmp_path / "team.key"])
    with capture_logs() as logs:
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110  uvicorn offers no event
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        server.should_exit = True
        await serving
    line = f"it listens on http://127.0.0.1:{port}; keys in {tmp_path / 'team.key'}"
    assert logs == [{"event": line, "log_level": "info"}]


async def test_no_client_can_make_labels() -> None:
    """Methods and paths of a client's invention share one label each."""
    app, registry = FastAPI(), CollectorRegistry()

    async def ready() -> None:
        return None

    http.install(app, registry=registry, ready=ready)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
        for word in ("BREW", "WHEN"):
            await client.request(word, "/livez")
            await client.get(f"/{word}")
        exposed = (await client.get("/metrics")).text
    assert "BREW" not in exposed
    assert "WHEN" not in exposed
    assert 'method="other",route="/livez"' in exposed


def test_a_taken_port_is_told_with_what_to_do() -> None:
    """The line names the place and the options that choose another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with capture_logs() as logs, pytest.raises(SystemExit):
            run(FastAPI(title="it"), host="127.0.0.1", port=port, balanced=False)
    told = f"it cannot listen on 127.0.0.1:{port}: stop what is there, or choose another place with --host and --port"
    assert logs == [{"event": told, "log_level": "error"}]


async def test_g21_readyz_turns_false_while_connections_are_still_accepted() -> None:
    """Balancers see that the service is about to go before it goes."""
    app = FastAPI()

    async def ready() -> None:
        return None

    http.install(app, registry=CollectorRegistry(), ready=ready)
    server = Server(app, host="127.0.0.1", port=0, notice_s=1.0)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(30):
        while not server.started:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/readyz"
        assert await _status(url) == 200
        server.should_exit = True
        while (status := await _status(url)) == 200:
            pass
        assert status == 503
        await serving
    with pytest.raises(httpx.ConnectError):
        await _status(url)


async def test_g21_a_request_in_flight_is_answered() -> None:
    """What was begun when the stop came is finished: the answer arrives whole, and only then does the server end."""
    app, begun, go_on = FastAPI(), asyncio.Event(), asyncio.Event()

    @app.get("/long")
    async def long() -> str:
        begun.set()
        await go_on.wait()
        return "done"

    server = Server(app, host="127.0.0.1", port=0, notice_s=0.0)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(30), httpx.AsyncClient() as client:
        while not server.started:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        asking = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/long"))
        await begun.wait()
        server.should_exit = True
        while server.servers[0].is_serving():  # noqa: ASYNC110 - nor for this
            await asyncio.sleep(0.01)
        ended, _ = await asyncio.wait({serving}, timeout=0.5)
        assert not ended
        go_on.set()
        assert (await asking).json() == "done"
        await serving


async def _status(url: str) -> int:
    async with httpx.AsyncClient() as client:
        return (await client.get(url)).status_code


@pytest.mark.parametrize("settings", [AllocatorSettings, PriorSettings])
def test_help_names_every_setting(settings: type[AllocatorSettings | PriorSettings]) -> None:
    """One line each, by the name of its variable."""
    names = [line.split()[0] for line in listed(settings).splitlines() if "(default: " in line]
    assert names == [settings.model_config["env_prefix"] + name.upper() for name in settings.model_fields]


@pytest.mark.parametrize(
    ("settings", "wrong", "right"),
    [
        (AllocatorSettings, "ROLLOUT_BUDGET_ALLOCATOR_PRIOR_DEADLINE", "ROLLOUT_BUDGET_ALLOCATOR_PRIOR_DEADLINE_S"),
        (PriorSettings, "ROLLOUT_BUDGET_PRIOR_MAX_ROW", "ROLLOUT_BUDGET_PRIOR_MAX_ROWS"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, settings: type[AllocatorSettings | PriorSettings], wrong: str, right: str
) -> None:
    """A setting that would be ignored is an error that says what was meant, without its value."""
    monkeypatch.setenv(wrong, "secret-value")
    with pytest.raises(ValidationError) as error:
        settings()
    assert faults(error.value) == f"{wrong} is no setting; did you mean {right}?"
