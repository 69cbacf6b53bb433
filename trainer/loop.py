"""The way into a training: join the ranks, make the run's folder and policy, restore what there is, train.

Owns what surrounds a run on every rank, and how a broken disk is told; the run itself is `training`. Rank 0 drives, the
other ranks learn with it.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

from rollout_budget import tracing
from trainer.config import Config
from trainer.errors import StorageFailed
from trainer.learner import checkpoint
from trainer.learner.fsdp import World, world
from trainer.learner.learner import Learner
from trainer.learner.ranks import follow, lead
from trainer.metrics import Listener, Summary, listeners
from trainer.parts import Parts, connect
from trainer.policy import ensure_policy
from trainer.run import Run
from trainer.runs import CHECKPOINTS, named, next_start, prepare
from trainer.training import Training

STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
"""What the disk says when it takes no more: full, over quota, read-only, broken."""

Connect = Callable[[Config, Listener], AbstractAsyncContextManager[Parts]]


def run_training(config: Config, *, on_event: Listener | None = None, connect: Connect = connect) -> Summary | None:
    """Train as configured, or go on with the run of that id, and return what came out (None on ranks other than 0).

    Args:
        config: the settings.
        on_event: told of every event, on rank 0.
        connect: makes the parts of a run; replaced in tests.

    Raises:
        ConfigError: the settings cannot be used, or are not those that the run was started with.
        TrainerError: rollouts, weights, the disk or the gradients failed beyond what can be borne; the last checkpoint
            and the rollouts since stand, and the same `run.id` goes on from them.
    """
    with world(config.learner.device, timeout_s=config.learner.collective_timeout_s) as where:
        with _disk(config.run.output_dir, config.run.id):
            start = _start(config, where)
        if start is None:
            return None
        directory, policy = start
        config = named(config, directory.name)
        learner = Learner(policy, config.learner, where, seed=config.run.seed, temperature=config.rollouts.temperature)
        if not where.leads:
            follow(learner, where)
            return None
        with _disk(directory, directory.name), lead(learner, where) as team, tracing.on("rollout-budget-trainer"):
            others = [] if on_event is None else [on_event]
            next_start(directory)
            return asyncio.run(_run(Run(config, directory, learner, team), others, connect))


def _start(config: Config, where: World) -> tuple[Path, Path] | None:
    """Return the run's folder and the policy's; None where rank 0 failed to make them, which alone says why."""
    start: tuple[Path, Path] | None = None
    try:
        start = (prepare(config), ensure_policy(config)) if where.leads else None
    finally:
        start = where.broadcast(start)
    return start


async def _run(run: Run, others: Sequence[Listener], connect: Connect) -> Summary:
    """Restore what there is, connect everything, train."""
    found = checkpoint.latest(run.directory / CHECKPOINTS)
    state = {} if found is None else run.team.load(found)
    with listeners(run.config, run.directory, int(state.get("step", 0)), others) as tell:
        async with connect(run.config, tell) as parts:
            training = Training(run, parts, tell)
            training.restore(state)
            return await training.train()


@contextmanager
def _disk(directory: Path, name: str) -> Iterator[None]:
    """Tell a disk that takes no more in one line, wherever in the run it was noticed; a new run may have no name yet."""
    try:
        yield
    except BaseException as error:  # a distributed save raises no Exception
        cause = _storage_error(error)
        if cause is None:
            raise
        again = f"go on with run.id = '{name}'" if name else "start again"
        raise StorageFailed(
            f"the disk takes no more ({cause.strerror}: {cause.filename or directory}); what was saved stands: make room, "
            f"then {again}"
        ) from error


def _storage_error(error: BaseException) -> OSError | None:
    """Return the disk's own error behind an error, if there is one.

    A distributed save wraps it twice; code that is not Python's (safetensors) has it in its text alone.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    found: OSError | None = None
    while waiting:
        item = waiting.pop()
        if item is None or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, OSError) and item.errno in STORAGE:
            return item
        if (said := next((code for code in STORAGE if os.strerror(code) in str(item)), None)) is not None:
            found = found or OSError(said, os.strerror(said))
        waiting += [item.__cause__, item.__context__, *getattr(item, "exceptions", ())]
        waiting += [failure[0] for failure in getattr(item, "failures", {}).values()]
    return found
