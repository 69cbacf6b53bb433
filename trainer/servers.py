"""Child servers: start one, wait until it answers, end it with everything it started.

Owns processes, ports and log files; knows nothing of what a server serves, but for the command line of vLLM. A server
runs under a keeper (`rollout_budget/keeper.py`), so that it ends with this process however this process ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from rollout_budget import keeper
from trainer.errors import ConfigError, ServerFailed

ENGINES = {"filesystem": "fs", "gloo": "gloo", "nccl": "nccl", "lora": None}
"""vLLM's weight-transfer engine by back end; adapters need none."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM 0.32 takes as --max-lora-rank."""
LORAS_AT_ONCE = 2
"""Adapters that one batch may mix: the current version, and the one before while its last calls end."""
LORAS_AT_HAND = 4
"""Adapters kept in memory; a few more than a run ever has loaded, so that none is read from its folder again."""
KEEPER = Path(keeper.__file__)
EXTENSION = Path(__file__).parent / "weights" / "vllm_extension.py"
"""vLLM imports this file in its own environment; only its folder is on that server's path."""
POLL_S = 0.2
"""Between two looks at a starting server: far below the seconds that one takes."""
STOP_MARGIN_S = 5.0
"""How much longer than a server's own grace to wait for its keeper."""
LOG_TAIL_LINES = 25
LOG_TAIL_BYTES = 8192
"""How much of a failed server's log an error shows: a Python traceback and what came before it."""
PROBE_S = 120.0
"""Longest wait for `import vllm`, 8 s on two idle cores, far more when they are busy or the disk is cold."""
PROBE = (
    "import vllm; from vllm.platforms import current_platform as p; print(vllm.__version__, p.device_type or 'none')"
)


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """What to start. `{port}` in the command or in a value of `env` stands for the port.

    Attributes:
        health_path: answers 200 once the server is ready.
        ready_within_s: from start to ready; beyond, the start has failed.
        stop_within_s: from SIGTERM to SIGKILL at the end.
        hint: what to do when it does not start; part of the error.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    health_path: str = "/readyz"
    ready_within_s: float = 60.0
    stop_within_s: float = 10.0
    hint: str = ""


class ServerProcess:
    """A running server, as an asynchronous context manager: ready inside the block, gone after it.

    Raises (on entry):
        ServerFailed: it ended before it was ready, or was not ready in time; shows its last log lines.
    """

    def __init__(self, spec: ServerSpec, *, log: Path, host: str = "127.0.0.1", port: int | None = None) -> None:
        self.spec = spec
        self.log = log
        self.host = host
        self.port = port
        self._keeper: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Base URL of the server."""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id of the keeper, whose only child is the server; None before the start."""
        return None if self._keeper is None else self._keeper.pid

    def is_running(self) -> bool:
        """Whether the process is still there."""
        return self._keeper is not None and self._keeper.returncode is None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
            await self._wait_until_ready()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End the server and everything it started; harmless if it has ended."""
        keeper = self._keeper
        if keeper is None:
            return
        if keeper.stdin is not None:
            keeper.stdin.close()
        try:
            await asyncio.wait_for(keeper.wait(), self.spec.stop_within_s + STOP_MARGIN_S)
        except TimeoutError as error:
            raise ServerFailed(f"{self.spec.name} (keeper {keeper.pid}) did not end; see {self.log}") from error

    async def _start(self) -> None:
        self.port = free_port(self.host) if self.port is None else self.port
        command = [part.replace("{port}", str(self.port)) for part in self.spec.command]
        env = {name: value.replace("{port}", str(self.port)) for name, value in self.spec.env.items()}
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._keeper = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(KEEPER), str(self.spec.stop_within_s), *command),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, **env},
                start_new_session=True,
            )

    async def _wait_until_ready(self) -> None:
        deadline = asyncio.get_running_loop().time() + self.spec.ready_within_s
        async with httpx.AsyncClient(base_url=self.url, timeout=POLL_S * 10, trust_env=False) as client:
            while True:
                if not self.is_running():
                    code = None if self._keeper is None else self._keeper.returncode
                    raise self._failure(f"ended with status {code} before it was ready")
                if await _answers(client, self.spec.health_path):
                    return
                if asyncio.get_running_loop().time() > deadline:
                    raise self._failure(f"was not ready within {self.spec.ready_within_s:.0f} s")
                await asyncio.sleep(POLL_S)

    def _failure(self, what: str) -> ServerFailed:
        lines = [f"{self.spec.name} {what}.", self.spec.hint, f"Last lines of {self.log}:", tail(self.log)]
        return ServerFailed("\n".join(line for line in lines if line))


async def _answers(client: httpx.AsyncClient, path: str) -> bool:
    try:
        return (await client.get(path)).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def tail(log: Path) -> str:
    """Return the last lines of a log file."""
    with log.open("rb") as lines:
        lines.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        text = lines.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])


@dataclass(frozen=True, slots=True)
class VllmBuild:
    """A Python whose vLLM works here, or the reason why there is none (`python` is None)."""

    python: Path | None
    version: str = ""
    device: str = ""
    reason: str = ""


async def find_vllm(python: Path | None = None) -> VllmBuild:
    """Look for a working vLLM in `python`, by default the one of `.venv-vllm` beside this package.

    It is imported for the answer: an environment can be there and yet be broken or built for another processor.
    """
    python = python or Path(__file__).parents[1] / ".venv-vllm" / "bin" / "python"
    if not python.exists():
        return VllmBuild(None, reason=f"there is no {python}; `make setup` installs vLLM where a build exists")
    probe = await asyncio.create_subprocess_exec(
        *(str(python), "-c", PROBE), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=python.parent
    )
    try:
        output, errors = await asyncio.wait_for(probe.communicate(), PROBE_S)
    except TimeoutError:
        probe.kill()
        await probe.wait()
        return VllmBuild(None, reason=f"`import vllm` took more than {PROBE_S:.0f} s in {python}")
    if probe.returncode != 0:
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or [f"status {probe.returncode}"]
        return VllmBuild(None, reason=f"`import vllm` fails in {python}: {last[0]}")
    version, device = output.decode().split()[-2:]
    if device == "none":
        return VllmBuild(None, reason=f"vLLM {version} in {python} does not support this machine")
    return VllmBuild(python, version=version, device=device)


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmOptions:
    """How to serve a model for training: small and exact by default, as a test or a demo on a CPU needs it.

    Attributes:
        served_name: the model's name in requests.
        dtype: `float32` makes log-probabilities equal the trainer's; `bfloat16` is usual on GPUs.
        max_model_len: longest prompt and completion together; None takes the model's own limit.
        max_num_seqs: sequences generated together.
        kv_cache_bytes: size of the key-value cache; None lets vLLM take its share of the device.
        eager: no compilation; starts in half the time.
        threads: OpenMP threads of a CPU server, whose worker then lives in the engine's own process and runs on any
            core: a third less memory, and no two processes that spin waiting for each other. None leaves it to vLLM.
        backend: how new weights will reach it, as `weights.backend` names it.
        lora_rank: highest rank of the adapters that it takes at run time; 0 takes none.
        extra: further flags, as they are.
    """

    served_name: str = "policy"
    dtype: str = "float32"
    max_model_len: int | None = None
    max_num_seqs: int = 256
    kv_cache_bytes: int | None = 128 * 2**20
    eager: bool = True
    threads: int | None = 1
    backend: str = "filesystem"
    lora_rank: int = 0
    extra: tuple[str, ...] = ()

    @classmethod
    def of(cls, device: str, *, dtype: str, backend: str = "filesystem", lora_rank: int = 0) -> VllmOptions:
        """Return what suits a device as `VllmBuild` names it: small on a CPU, vLLM's own choices elsewhere."""
        if device == "cpu":
            return cls(dtype=dtype, backend=backend, lora_rank=lora_rank)
        return cls(dtype=dtype, kv_cache_bytes=None, eager=False, threads=None, backend=backend, lora_rank=lora_rank)


def vllm_server(model: Path, python: Path, options: VllmOptions | None = None) -> ServerSpec:
    """Return how to serve `model` with new weights by the back end of `options` (docs/weights.md)."""
    options = options or VllmOptions()
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model.resolve())]
    command += ["--served-model-name", options.served_name, "--host", "127.0.0.1", "--port", "{port}"]
    command += ["--dtype", options.dtype, "--max-num-seqs", str(options.max_num_seqs), "--generation-config", "vllm"]
    command += ["--logprobs-mode", "processed_logprobs"]  # of the distribution drawn from, temperature included
    command += _weight_flags(options)
    command += ["--uvicorn-log-level", "warning"]
    if options.max_model_len is not None:
        command += ["--max-model-len", str(options.max_model_len)]
    if options.kv_cache_bytes is not None:
        command += ["--kv-cache-memory-bytes", str(options.kv_cache_bytes)]
    if options.eager:
        command += ["--enforce-eager"]
    env = {
        "VLLM_SERVER_DEV_MODE": "1",  # pause, weight updates and resume live behind it
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": str(int(_takes_adapters(options))),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONPATH": str(EXTENSION.parent),
    }
    if options.threads is not None:
        env |= {"OMP_NUM_THREADS": str(options.threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        env |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # or else the next flag is overruled on CPUs
        command += ["--distributed-executor-backend", "uni"]
    return ServerSpec(
        name="vLLM",
        command=(*command, *options.extra),
        env=env,
        health_path="/health",
        ready_within_s=300.0,
        stop_within_s=15.0,
        hint="A start takes 25 to 45 s and 1.5 GB on two idle cores. If memory ran out, lower `kv_cache_bytes`.",
    )


def _weight_flags(options: VllmOptions) -> list[str]:
    """Return what makes vLLM take weights by a back end; `nccl` is vLLM's own engine, two are of our extension."""
    flags = []
    engine = ENGINES[options.backend]
    if engine in {"fs", "gloo"}:
        flags += ["--worker-extension-cls", f"{EXTENSION.stem}.Extension"]
    if engine is not None:
        flags += ["--weight-transfer-config", f'{{"backend": "{engine}"}}']
    if _takes_adapters(options):
        rank = next((size for size in LORA_RANKS if size >= options.lora_rank), None)
        if rank is None:
            raise ConfigError(f"vLLM takes adapters of rank {LORA_RANKS[-1]} at most, not {options.lora_rank}")
        flags += ["--enable-lora", "--max-lora-rank", str(rank)]
        flags += ["--max-loras", str(LORAS_AT_ONCE), "--max-cpu-loras", str(LORAS_AT_HAND)]
    return flags


def _takes_adapters(options: VllmOptions) -> bool:
    return options.lora_rank > 0 or options.backend == "lora"
