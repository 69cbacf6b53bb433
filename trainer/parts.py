"""The parts of a run, made from a configuration: task, verifier, source of rollouts, allocator.

Owns which class stands behind which setting, and closing them in reverse order; they do not know each other. What has no
URL runs in this process: the allocator with the same rules, generation with transformers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rollout_budget.client import AllocatorClient, PriorClient, RecordedAllocator, ResilientAllocator
from rollout_budget.client.base import Allocator
from rollout_budget.wire import EvidenceRequest, EvidenceRow, PriorModel, Prompt, ValuesAnswer, ValuesRequest
from trainer import rewards, tasks
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.learner.fsdp import device_kind
from trainer.metrics import Listener, Noticed
from trainer.rollouts.inprocess import InProcessGenerator
from trainer.runs import ALLOCATOR_FILE, UNTOLD_FILE
from trainer.types import Generator, Task, Verifier, WeightPublisher
from trainer.weights.backends import served


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop works with."""

    task: Task
    verifier: Verifier
    generator: Generator
    publisher: WeightPublisher
    allocator: Allocator


@asynccontextmanager
async def connect(config: Config, tell: Listener) -> AsyncIterator[Parts]:
    """Enter a run's parts; connections and worker processes end with the block.

    Args:
        config: says which.
        tell: hears when the allocator goes away and comes back, and what the task left out of its data.

    Raises:
        ConfigError: a key file is missing, or the task cannot be made.
    """
    task = tasks.get(config.task.name, config.task.options)
    left_out = tasks.notice(task)
    if left_out is not None:
        tell(Noticed(left_out))
    async with AsyncExitStack() as stack:
        verifier = rewards.get(config.task.verifier, config.task.limits)
        stack.push_async_callback(verifier.close)
        generator, publisher = _generation(config)
        stack.push_async_callback(generator.close)
        stack.push_async_callback(publisher.close)
        allocator = await _allocator(config, tell, stack)
        yield Parts(task, verifier, generator, publisher, allocator)


class ServicePriors:
    """Priors of a prior service for an allocator in this process; obeys `rollout_budget.engine.ports.PriorSource`."""

    def __init__(self, client: PriorClient) -> None:
        self._client = client

    async def values(
        self, team: str, policy: str, version: int, prompts: Sequence[Prompt], model: PriorModel
    ) -> ValuesAnswer:
        """Return one value per prompt; the team is the key's."""
        del team
        request = ValuesRequest(policy=policy, version=version, prompts=list(prompts), model=model)
        return await self._client.values(request)

    async def add_evidence(self, team: str, policy: str, rows: Sequence[EvidenceRow]) -> None:
        """Hand over evidence."""
        del team
        await self._client.add_evidence(policy, EvidenceRequest(rows=list(rows)))


def _generation(config: Config) -> tuple[Generator, WeightPublisher]:
    if not config.rollouts.urls:
        if config.weights.backend != "filesystem":
            raise ConfigError(
                f'weights.backend = "{config.weights.backend}" needs vLLM servers: name them in rollouts.urls, or let '
                "`python -m trainer launch` start one"
            )
        local = InProcessGenerator(device=device_kind(config.learner.device), keep=config.weights.keep)
        return local, local
    return served(config)


async def _allocator(config: Config, tell: Listener, stack: AsyncExitStack) -> Allocator:
    settings = config.allocator
    if settings.url is None:
        record = config.run.output_dir / config.run.id / ALLOCATOR_FILE
        return await RecordedAllocator.restored(record, priors=await _priors(config, stack))
    key = _key("allocator.key_file", settings.key_file)
    client = await stack.enter_async_context(AllocatorClient(settings.url, key))
    return ResilientAllocator(
        client,
        notify=lambda notice: tell(Noticed(f"allocator {notice.kind}: {notice.detail}")),
        journal=config.run.output_dir / config.run.id / UNTOLD_FILE,
    )


async def _priors(config: Config, stack: AsyncExitStack) -> ServicePriors | None:
    if config.prior.url is None:
        return None
    key = _key("prior.key_file", config.prior.key_file)
    return ServicePriors(await stack.enter_async_context(PriorClient(config.prior.url, key)))


def _key(field: str, path: Path | None) -> str:
    """Return the API key in a file.

    Raises:
        ConfigError: no file is named, or it cannot be read.
    """
    if path is None:
        raise ConfigError(f"{field}: a service by URL needs a file with the team's API key")
    try:
        return path.expanduser().read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{field} = '{path}': {error.strerror or error}") from error
