"""Child servers start, are waited for, and leave nothing behind however their parent ends."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from trainer.errors import ConfigError, ServerFailed
from trainer.servers import ServerProcess, ServerSpec, VllmOptions, find_vllm, vllm_server

ROOT = Path(__file__).parents[2]

SERVER = """
import http.server, os, signal, subprocess, sys
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen(["sleep", "600"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()
        self.wfile.write(f"{os.getpid()} {grandchild.pid}".encode())
    def log_message(self, *arguments): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

PARENT = """
import asyncio, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
from pathlib import Path
import httpx
from tests.trainer.test_servers import spec
from trainer.servers import ServerProcess

async def main():
    async with ServerProcess(spec(), log=Path(sys.argv[1])) as server:
        async with httpx.AsyncClient() as client:
            print((await client.get(server.url + "/ready")).text, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def spec(*arguments: str, code: str = SERVER, ready_within_s: float = 30.0, stop_within_s: float = 5.0) -> ServerSpec:
    return ServerSpec(
        name="toy",
        command=(sys.executable, "-c", textwrap.dedent(code), "{port}", *arguments),
        health_path="/ready",
        ready_within_s=ready_within_s,
        stop_within_s=stop_within_s,
        hint="Ask the toymaker.",
    )


async def pids_of(server: ServerProcess) -> list[int]:
    async with httpx.AsyncClient() as client:
        return [int(pid) for pid in (await client.get(f"{server.url}/ready")).text.split()]


def wait_gone(pid: int, within_s: float = 15.0) -> None:
    """Wait until a process has ended, whoever is its parent."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], within_s)[0], f"process {pid} is still there"
    finally:
        os.close(descriptor)


async def test_a_server_is_ready_inside_the_block_and_gone_after_it(tmp_path: Path) -> None:
    async with ServerProcess(spec(), log=tmp_path / "logs" / "toy.log") as server:
        pids = await pids_of(server)
        assert server.is_running()
    assert not server.is_running()
    for pid in pids:
        wait_gone(pid, 0.1)


async def test_a_server_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    async with ServerProcess(spec("stubborn", stop_within_s=0.3), log=tmp_path / "toy.log") as server:
        pids = await pids_of(server)
    for pid in pids:
        wait_gone(pid, 0.1)


async def test_what_a_crashed_server_leaves_is_killed_at_once(tmp_path: Path) -> None:
    async with ServerProcess(spec(), log=tmp_path / "toy.log") as server:
        pids = await pids_of(server)
        os.kill(pids[0], signal.SIGKILL)
        await asyncio.to_thread(wait_gone, pids[1])


async def test_an_early_end_shows_the_last_log_lines_and_what_to_do(tmp_path: Path) -> None:
    code = "raise SystemExit('no such model: tiny')"
    with pytest.raises(ServerFailed, match=r"(?s)ended with status 1.*toymaker.*no such model: tiny"):
        async with ServerProcess(spec(code=code), log=tmp_path / "toy.log"):
            raise AssertionError


async def test_a_server_that_never_answers_is_ended_at_its_deadline(tmp_path: Path) -> None:
    server = ServerProcess(spec(code="import time; time.sleep(600)", ready_within_s=0.5), log=tmp_path / "toy.log")
    with pytest.raises(ServerFailed, match="not ready within"):
        await server.__aenter__()
    assert not server.is_running()


async def test_cancelling_the_start_leaves_nothing(tmp_path: Path) -> None:
    server = ServerProcess(spec(code="import time; time.sleep(600)"), log=tmp_path / "toy.log")
    start = asyncio.create_task(server.__aenter__())
    while not server.is_running():  # noqa: ASYNC110 - the start has no signal but its process
        await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not server.is_running()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_survives_the_parent(tmp_path: Path, number: signal.Signals) -> None:
    """The parent gets a signal, SIGKILL included: the server and its child end too."""
    command = [sys.executable, "-c", PARENT, str(tmp_path / "toy.log")]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.send_signal(number)
    for pid in pids:
        wait_gone(pid)


async def test_a_missing_vllm_is_said_with_what_to_do(tmp_path: Path) -> None:
    build = await find_vllm(tmp_path / "bin" / "python")
    assert build.python is None
    assert "make setup" in build.reason


async def test_an_environment_without_vllm_is_said() -> None:
    build = await find_vllm(Path(sys.executable))
    assert build.python is None
    assert "No module named 'vllm'" in build.reason


def test_the_vllm_command_line_carries_its_options() -> None:
    options = replace(VllmOptions.of("cuda", dtype="bfloat16"), extra=("--seed", "1"))
    served = vllm_server(Path("model"), Path("python"), options)
    assert served.command[-2:] == ("--seed", "1")
    assert "uni" in vllm_server(Path("model"), Path("python"), VllmOptions.of("cpu", dtype="float32")).command
    assert "bfloat16" in served.command
    assert not {"--enforce-eager", "--kv-cache-memory-bytes", "uni"} & set(served.command)
    assert "OMP_NUM_THREADS" not in served.env
    assert served.env["VLLM_SERVER_DEV_MODE"] == "1"


@pytest.mark.parametrize("backend", ["filesystem", "lora", "nccl", "gloo"])
def test_the_vllm_command_line_is_that_of_its_back_end(backend: str) -> None:
    served = vllm_server(Path("model"), Path("python"), VllmOptions.of("cuda", dtype="bfloat16", backend=backend))
    engine = {"filesystem": "fs", "nccl": "nccl", "gloo": "gloo"}.get(backend)
    assert (f'{{"backend": "{engine}"}}' in served.command) == (engine is not None)
    assert ("--worker-extension-cls" in served.command) == (engine in {"fs", "gloo"})
    assert ("--enable-lora" in served.command) == (backend == "lora")
    assert served.env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == str(int(backend == "lora"))


def test_vllm_is_asked_for_a_rank_that_it_knows() -> None:
    served = vllm_server(Path("model"), Path("python"), VllmOptions(backend="lora", lora_rank=24))
    assert served.command[served.command.index("--max-lora-rank") + 1] == "32"
    with pytest.raises(ConfigError, match="rank 512 at most"):
        vllm_server(Path("model"), Path("python"), VllmOptions(backend="lora", lora_rank=513))
