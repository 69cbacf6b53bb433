"""A policy and rollouts small enough for any test of the learner, and a way to run it on several ranks."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from trainer.config import DemoPolicySection, LearnerSection
from trainer.learner.batch import Row
from trainer.learner.fsdp import World, world
from trainer.learner.learner import Learner
from trainer.policy import character_tokenizer, demo_model

SHAPE = DemoPolicySection(hidden_size=32, intermediate_size=48, layers=2, heads=2, kv_heads=1)
TIMEOUT_S = 120.0


def make_policy(directory: Path, *, tied: bool = False) -> Path:
    """Write an untrained policy and return its folder."""
    tokenizer = character_tokenizer()
    model = demo_model(SHAPE, tokenizer)
    if tied:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_rows(count: int, *, seed: int = 0) -> list[Row]:
    """Return ragged rows with plausible log-probabilities and advantages of both signs."""
    generator = random.Random(seed)  # noqa: S311 - reproducible, not secret

    def row() -> Row:
        prompt = tuple(generator.randrange(4, 90) for _ in range(generator.randrange(1, 9)))
        tokens = tuple(generator.randrange(4, 90) for _ in range(generator.randrange(1, 7)))
        return Row(prompt, tokens, tuple(generator.uniform(-5.5, -3.5) for _ in tokens), generator.uniform(-1, 1))

    return [row() for _ in range(count)]


def learn(policy: Path, rows: int, settings: Mapping[str, Any], out: Path, where: World) -> None:
    """Take three steps and, on rank 0, write what came out: statistics and the whole weights."""
    learner = Learner(policy, LearnerSection.model_validate({"device": "cpu", **settings}), where, seed=3)
    done = [learner.step(make_rows(rows, seed=step)) for step in range(3)]
    directory = learner.export(out, 3, "float32")
    if where.leads:
        (directory / "statistics.json").write_text(
            json.dumps(
                [[item.loss, item.grad_norm, item.clip_fraction, item.kl, item.largest_mismatch] for item in done]
            )
        )


def learn_alone(policy: Path, rows: int, settings: Mapping[str, Any], out: Path) -> Path:
    """Learn in this process and return the folder of the result."""
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learn(policy, rows, settings, out, where)
    return out / "v3"


def learn_on_ranks(ranks: int, policy: Path, rows: int, settings: Mapping[str, Any], out: Path) -> Path:
    """Learn in as many processes and return the folder of the result."""
    on_ranks(ranks, learn, policy, rows, dict(settings), out)
    return out / "v3"


def on_ranks(ranks: int, work: Callable[..., None], *arguments: Any, ends: int = 0) -> None:
    """Call a module's function in as many processes, each with its `World` as the last argument; all end with `ends`.

    They are forked from a server that has imported torch and transformers once, before any thread was started in it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.trainer.tiny"])
    processes = [
        context.Process(target=_rank, args=(rank, ranks, port, work, arguments), daemon=True) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT_S)
    assert [process.exitcode for process in processes] == [ends] * ranks


def _rank(rank: int, ranks: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    place = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        work(*arguments, where)
