"""Which pool of servers and which publisher stand behind `[rollouts]` and `[weights]`.

Owns the choice alone. What a back end needs on this side (vLLM and a GPU for `nccl`, torch for `gloo`) is imported for it
alone, and what is missing is said before the run starts.
"""

from __future__ import annotations

from functools import partial

from trainer.config import Config
from trainer.rollouts.pool import Patience, ServerPool
from trainer.rollouts.vllm import ANSWER_S, VllmServer
from trainer.runs import starts_of
from trainer.types import WeightPublisher
from trainer.weights.adapters import AdapterPublisher
from trainer.weights.broadcast import BroadcastPublisher
from trainer.weights.filesystem import FilesystemPublisher
from trainer.weights.transport import MakeTransport

ANSWERS_PER_DEADLINE = 3
"""Calls that fit a deadline one after the other: a server that stalls leaves time for others."""


def served(config: Config) -> tuple[ServerPool, WeightPublisher]:
    """Return the pool of `rollouts.urls` and who brings weights to it.

    Raises:
        ConfigError: the back end cannot work here.
    """
    settings = config.rollouts
    start = starts_of(config.run.output_dir / config.run.id)
    servers = [
        VllmServer(
            url,
            run=f"{config.run.id}.{start}",  # what a killed learner published is never taken for what this one does
            prompts_per_call=settings.prompts_per_call,
            calls=settings.calls_per_server,
            answer_s=min(ANSWER_S, settings.deadline_s / ANSWERS_PER_DEADLINE),
            adapters=config.weights.backend == "lora",
        )
        for url in settings.urls
    ]
    pool = ServerPool(
        servers,
        Patience(deadline_s=settings.deadline_s),
        weights=settings.weights,
        continues=settings.max_staleness > 0,
    )
    return pool, _publisher(config, pool)


def _publisher(config: Config, pool: ServerPool) -> WeightPublisher:
    keep = config.weights.keep
    if config.weights.backend == "filesystem":
        return FilesystemPublisher(pool, keep=keep)
    if config.weights.backend == "lora":
        return AdapterPublisher(pool, keep=keep)
    return BroadcastPublisher(pool, _transport(config), keep=keep)


def _transport(config: Config) -> MakeTransport:
    address = config.weights.master_address
    if config.weights.backend == "gloo":
        from trainer.weights.gloo import GlooTransport  # noqa: PLC0415 - needs torch

        return partial(GlooTransport, address)
    from trainer.weights.nccl import NcclTransport  # noqa: PLC0415 - needs a GPU

    NcclTransport(address)  # raises where it cannot work, before anything is drawn
    return partial(NcclTransport, address)
