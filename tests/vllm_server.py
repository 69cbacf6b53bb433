"""One real vLLM server for all tests that need one: started by the first, ended with the session, started anew if killed.

It takes weights in every way that a CPU allows: from a folder, over Gloo, and as adapters.

`tests/conftest.py` makes it known to all of them.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.config import DemoPolicySection
from trainer.policy import character_tokenizer, demo_model
from trainer.servers import ServerProcess, VllmOptions, find_vllm, vllm_server
from trainer.weights.exports import export_directory

LORA_RANK = 8
"""Highest rank of adapters that the server takes."""
TINY = DemoPolicySection(hidden_size=64, intermediate_size=128, layers=2, heads=4, kv_heads=2)


def export_model(root: Path, version: int, seed: int) -> Path:
    """Write a complete export of a random policy; another seed gives another policy of the same shape."""
    with export_directory(root, version) as directory:
        tokenizer = character_tokenizer()
        tokenizer.save_pretrained(directory)
        demo_model(TINY.model_copy(update={"seed": seed}), tokenizer).save_pretrained(directory)
    return root / f"v{version}"


def child_of(process: ServerProcess) -> int:
    """Return the process id of the server itself, below its keeper."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def is_alive(process: ServerProcess) -> bool:
    """Whether the server itself is there, whatever its keeper has noticed yet."""
    try:
        state = Path(f"/proc/{child_of(process)}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


class VllmSession:
    """Starts the server when it is asked for and not running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "v0"
        self._runner = asyncio.Runner()
        self._process: ServerProcess | None = None
        build = self._runner.run(find_vllm())
        self._python, self.missing = build.python, build.reason

    def running(self) -> ServerProcess:
        """Return the server, ready."""
        if self._process is not None and not is_alive(self._process):
            self._runner.run(self._process.stop())
            self._process = None
        if self._process is None:
            assert self._python is not None
            export_model(self.folder, 0, seed=0)
            options = VllmOptions(kv_cache_bytes=64 * 2**20, backend="gloo", lora_rank=LORA_RANK)
            spec = vllm_server(self.model, self._python, options)
            process = ServerProcess(spec, log=self.folder / "vllm.log")
            self._runner.run(process.__aenter__())
            self._process = process
        return self._process

    def kill(self) -> None:
        """Kill the server's API process with SIGKILL and wait until all of it is gone."""
        assert self._process is not None
        os.kill(child_of(self._process), signal.SIGKILL)

    def close(self) -> None:
        """End the server."""
        if self._process is not None:
            self._runner.run(self._process.stop())
        self._runner.close()


@pytest.fixture(scope="session")
def vllm_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmSession]:
    session = VllmSession(tmp_path_factory.mktemp("vllm"))
    yield session
    session.close()


@pytest.fixture
def vllm(vllm_session: VllmSession) -> ServerProcess:
    """A real server of a random tiny policy, at whatever version the last test left."""
    if vllm_session.missing:
        pytest.skip(vllm_session.missing)
    return vllm_session.running()
