"""`python -m benchmarks.scale.probe URL FOLDER`: the real allocator, which writes down where each call's time went.

The service is unchanged: what is written down comes from the events of its database engine and from one layer around
the application. One line of JSON per call of groups, in FOLDER/calls.jsonl; the port in FOLDER/port. CPU is the whole
process's, so that figures hold for one call at a time; wall times hold for any load.
"""

from __future__ import annotations

import contextvars
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import uvicorn
from sqlalchemy import event

from services.allocator.app import create_app
from services.allocator.settings import Settings


@dataclass(slots=True)
class Trace:
    """One call: moments as (wall, CPU), database seconds and statements before and after the team's row was held."""

    began: tuple[float, float]
    gate: tuple[float, float] | None = None
    done: tuple[float, float] | None = None
    commit_began: float = 0.0
    commit: float = 0.0
    sent: float = 0.0
    waits: list[float] = field(default_factory=lambda: [0.0, 0.0])
    statements: list[int] = field(default_factory=lambda: [0, 0])


_trace: contextvars.ContextVar[Trace | None] = contextvars.ContextVar("trace", default=None)


def moment() -> tuple[float, float]:
    """Return wall and CPU seconds."""
    return time.perf_counter(), time.process_time()


def listen(engine: Any) -> None:
    """Write into the current trace whatever the engine does."""

    def before(_connection: Any, _cursor: Any, _statement: str, *_rest: Any) -> None:
        if (trace := _trace.get()) is not None:
            trace.sent = time.perf_counter()

    def after(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if (trace := _trace.get()) is not None:
            held = trace.gate is not None
            trace.waits[held] += time.perf_counter() - trace.sent
            trace.statements[held] += 1
            if not held and "FOR UPDATE" in statement and "accounts" in statement:
                trace.gate = moment()

    def commit(_connection: Any) -> None:
        if (trace := _trace.get()) is not None:
            trace.commit_began = time.perf_counter()

    def checked_in(*_rest: Any) -> None:
        if (trace := _trace.get()) is not None:
            trace.commit = time.perf_counter() - trace.commit_began if trace.commit_began else 0.0
            trace.done = moment()

    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "after_cursor_execute", after)
    event.listen(engine, "commit", commit)
    event.listen(engine, "checkin", checked_in)


class Probe:
    """The application, and around it the writing down."""

    def __init__(self, settings: Settings, out: TextIO) -> None:
        self._app = create_app(settings)
        self._out = out
        self._listening = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as the application does."""
        if scope["type"] != "http" or "/groups/" not in scope["path"]:
            await self._app(scope, receive, send)
            return
        if not self._listening:
            listen(self._app.state.service.database.engine.sync_engine)
            self._listening = True
        trace = Trace(moment())
        _trace.set(trace)
        await self._app(scope, receive, send)
        self._write(scope["path"].rpartition("/")[2], trace, moment())

    def _write(self, call: str, trace: Trace, end: tuple[float, float]) -> None:
        done = trace.done or end
        gate = trace.gate or done
        line = {
            "call": call,
            "wall": end[0] - trace.began[0],
            "cpu_before": gate[1] - trace.began[1],
            "cpu_held": done[1] - gate[1],
            "cpu_after": end[1] - done[1],
            "held_wall": done[0] - gate[0],
            "commit": trace.commit,
            "wait_before": trace.waits[0],
            "wait_held": trace.waits[1],
            "statements_before": trace.statements[0],
            "statements_held": trace.statements[1],
        }
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()


def main(url: str, folder: Path) -> None:
    """Serve until SIGTERM."""
    settings = Settings.model_validate(
        {
            "data": folder,
            "database_url": url,
            "audit_every_s": 1e6,
            "deliver_every_s": 1e6,
            "port": 0,
        }
    )
    with (folder / "calls.jsonl").open("w") as out:
        config = uvicorn.Config(Probe(settings, out), host="127.0.0.1", port=0, log_level="warning", access_log=False)
        server = Announcing(config, folder / "port")
        server.run()


class Announcing(uvicorn.Server):
    """Writes its port into a file once it listens."""

    def __init__(self, config: uvicorn.Config, file: Path) -> None:
        super().__init__(config)
        self._file = file

    async def startup(self, sockets: Any = None) -> None:
        """Start, then say where."""
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        written = self._file.with_suffix(".new")
        written.write_text(str(port))
        written.replace(self._file)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
