"""Starts whatever of prior service, allocator and vLLM is not given by URL, trains, and ends what it started.

Owns which servers a configuration needs and how they are wired; processes are `servers`' business, training is `loop`'s.
A configuration that names every URL starts nothing. Where no vLLM build works on this machine, the reason is said and
rollouts are generated in this process instead.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainer.config import Config
from trainer.errors import ServerFailed
from trainer.placement import Place, place
from trainer.servers import ServerProcess, ServerSpec, VllmOptions, find_vllm, vllm_server

PRIOR = "prior service"
ALLOCATOR = "allocator"
"""Names of the services among the processes of a stage."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """A configuration whose servers are all up, and the processes that were started for it, by name."""

    config: Config
    processes: dict[str, ServerProcess]


@contextmanager
def staged(
    config: Config, directory: Path, model: Path, say: Say, *, ranks: int = 1, servers: int | None = None
) -> Iterator[Stage]:
    """Start the missing servers, keep their data and logs in `directory`, end them after the block.

    Synchronous, because training runs in the main thread, where Ctrl-C arrives.

    Args:
        config: says what is missing.
        directory: for data and logs.
        model: that vLLM serves at first.
        say: told of each server that is ready.
        ranks: of the learner, whose GPUs are left to it.
        servers: vLLM servers to start; by default one per GPU that is left, or one.

    Raises:
        ServerFailed: one did not start; those that did are ended.
    """
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            crew = _Crew(directory, stack, say, ranks, servers)
            yield runner.run(_started(crew, config, model))
        finally:
            runner.run(stack.aclose())


def train_on(config: Config, arguments: Sequence[str], processes: int) -> None:
    """Train in processes of their own under torchrun, with the servers that `config` names.

    Args:
        config: whose server URLs and key files are added to the arguments.
        arguments: configuration file and overrides, as `python -m trainer train` takes them.
        processes: ranks on this machine.

    Raises:
        ServerFailed: torchrun ended with an error, which it has printed.
    """
    places = {
        "allocator.url": config.allocator.url,
        "allocator.key_file": str(config.allocator.key_file),
        "rollouts.urls": config.rollouts.urls,
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    overrides = [part for name, value in places.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    command = [*torchrun, "-m", "trainer", "train", *arguments, *overrides]
    status = subprocess.run(command, check=False).returncode  # noqa: S603 - our own command
    if status:
        raise ServerFailed(f"training under torchrun ended with status {status}; its messages are above")


async def _started(crew: _Crew, config: Config, model: Path) -> Stage:
    async with asyncio.TaskGroup() as group:
        services = group.create_task(crew.services(config))
        generators = group.create_task(crew.generators(config, model))
    rollouts = config.rollouts.model_copy(update={"urls": generators.result()})
    return Stage(services.result().model_copy(update={"rollouts": rollouts}), crew.processes)


@dataclass(frozen=True, slots=True)
class _Crew:
    """Starts servers into one exit stack, which ends them in reverse order."""

    directory: Path
    stack: AsyncExitStack
    say: Say
    ranks: int = 1
    servers: int | None = None
    processes: dict[str, ServerProcess] = field(default_factory=dict)

    async def services(self, config: Config) -> Config:
        """Start the prior service and the allocator on it, unless the allocator has a URL; return where they are."""
        if config.allocator.url is not None:
            return config
        prior_url, prior_key = config.prior.url, config.prior.key_file
        if prior_url is None:
            data = self.directory / "prior"
            prior_url, prior_key = (await self._start(prior_service(data))).url, data / "prior.key"
        if prior_key is None:
            raise ServerFailed("prior.url is given without prior.key_file: the allocator needs a key to ask it")
        data = self.directory / "allocator"
        allocator = await self._start(allocator_service(data, prior_url, prior_key))
        return config.model_copy(
            update={
                "prior": config.prior.model_copy(update={"url": prior_url, "key_file": prior_key}),
                "allocator": config.allocator.model_copy(update={"url": allocator.url, "key_file": data / "team.key"}),
            }
        )

    async def generators(self, config: Config, model: Path) -> list[str]:
        """Start vLLM servers, unless some are given; return the URLs, none where no build works here."""
        if config.rollouts.urls:
            return config.rollouts.urls
        build = await find_vllm()
        if build.python is None:
            self.say(f"No vLLM here ({build.reason}); rollouts are generated in this process.")
            return []
        backend, rank = config.weights.backend, config.learner.lora.rank
        options = VllmOptions.of(build.device, dtype=config.weights.dtype, backend=backend, lora_rank=rank)
        gpus = [] if build.device == "cpu" else visible_gpus()
        places = place(gpus, ranks=self.ranks, servers=self.servers)
        specs = [
            _placed(
                vllm_server(model, build.python, replace(options, extra=(*options.extra, *spot.flags))), spot, number
            )
            for number, spot in enumerate(places, start=1)
        ]
        return [process.url for process in await asyncio.gather(*map(self._start, specs))]

    async def _start(self, spec: ServerSpec) -> ServerProcess:
        log = self.directory / "logs" / f"{spec.name.replace(' ', '-')}.log"
        began = asyncio.get_running_loop().time()
        process = await self.stack.enter_async_context(ServerProcess(spec, log=log))
        seconds = asyncio.get_running_loop().time() - began
        self.say(f"{spec.name} is ready at {process.url} after {seconds:.0f} s (log: {log})")
        self.processes[spec.name] = process
        return process


def visible_gpus() -> list[str]:
    """Return this machine's GPUs as CUDA_VISIBLE_DEVICES names them."""
    import torch  # noqa: PLC0415 - slow to import

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def _placed(spec: ServerSpec, spot: Place, number: int) -> ServerSpec:
    """Return a server on its devices, with a name of its own."""
    name = spec.name if number == 1 else f"{spec.name} {number}"
    return replace(spec, name=name, env={**spec.env, **spot.env})


def prior_service(data: Path) -> ServerSpec:
    """Return how to start the embedded prior service with its files in `data`."""
    return ServerSpec(
        name=PRIOR,
        command=(sys.executable, "-m", "services.prior_api"),
        env={"ROLLOUT_BUDGET_PRIOR_DATA": str(data), "ROLLOUT_BUDGET_PRIOR_PORT": "{port}"},
        ready_within_s=120.0,
        hint="It loads a sentence encoder first; `pip install -e '.[prior]'` installs what it needs.",
    )


def allocator_service(data: Path, prior_url: str, prior_key: Path) -> ServerSpec:
    """Return how to start the embedded allocator with its files in `data`, asking this prior service."""
    return ServerSpec(
        name=ALLOCATOR,
        command=(sys.executable, "-m", "services.allocator", "serve"),
        env={
            "ROLLOUT_BUDGET_ALLOCATOR_DATA": str(data),
            "ROLLOUT_BUDGET_ALLOCATOR_PORT": "{port}",
            "ROLLOUT_BUDGET_ALLOCATOR_PRIOR_URL": prior_url,
            "ROLLOUT_BUDGET_ALLOCATOR_PRIOR_KEY": prior_key.read_text().strip(),
        },
        hint="`pip install -e '.[allocator]'` installs what it needs.",
    )
