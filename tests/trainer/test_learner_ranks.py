"""One, two and three ranks do what one process does without any of the learner's code."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from tests.trainer.plain import plain_loss
from tests.trainer.tiny import TIMEOUT_S, make_policy, make_rows, on_ranks
from trainer.config import LearnerSection
from trainer.learner import checkpoint
from trainer.learner.batch import Row
from trainer.learner.fsdp import World, world
from trainer.learner.learner import Learner
from trainer.learner.optimizers import WholeMatrices
from trainer.policy import load_model

UNCLIPPED: dict[str, Any] = {"device": "cpu", "optimizer": "sgd", "lr": 0.1, "grad_clip": 1e6, "microbatch_tokens": 30}
"""With plain SGD a step moves each weight by its gradient times the rate; 30 tokens make several microbatches a rank."""
LOSSES: dict[str, dict[str, Any]] = {
    "token mean": {},
    "sequence mean": {"loss": "sequence_mean"},
    "stale": {"importance": "truncated", "importance_cap": 1.1, "loss": "sequence_mean"},
    "held to a reference": {"kl": 2.0},
}
GATHERED: dict[type[Optimizer], dict[str, Any]] = {
    torch.optim.Muon: {"lr": 0.1, "weight_decay": 0.1},
    torch.optim.Adafactor: {"lr": 0.1, "weight_decay": 0.1},
}
OPTIMIZERS = ("adamw", "adam", "sgd", "adafactor", "muon")
TOLERANCE = {"adamw": 2e-5, "adam": 2e-5, "sgd": 1e-6, "adafactor": 2e-5, "muon": 3e-3}
"""Weights move by 1e-2 a step, with SGD by a rate of the gradient. Muon iterates in bfloat16, which makes the rounding of
a gradient's small singular values large; that its own part is exact is tested apart."""
STEPS = 2


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def results(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run everything that this module compares, once on each number of ranks."""
    out = tmp_path_factory.mktemp("results")
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        _work(policy, out, where)
    for ranks in (2, 3):
        on_ranks(ranks, _work, policy, out)
    return out


def ragged(step: int) -> list[Row]:
    """Return rows of unequal lengths and weights; 11 of them, so that ranks get unequal shares."""
    return [replace(row, weight=1.0 + index % 3) for index, row in enumerate(make_rows(11, seed=step))]


def _work(policy: Path, out: Path, where: World) -> None:
    found = {}
    for name, changes in LOSSES.items():
        learner = _learner(policy, where, **changes)
        for step in range(STEPS):
            learner.step(ragged(step))
        found[name] = _weights(learner)
    for name in OPTIMIZERS:
        learner = _learner(policy, where, optimizer=name, lr=1e-2, weight_decay=0.1, grad_clip=1.0)
        for step in range(STEPS):
            learner.step(ragged(step))
        found[name] = _weights(learner)
        if where.size < 3:
            learner.save(out / f"{name}-{where.size}", STEPS, {}, 1)
            learner.step(ragged(STEPS))
            found[f"{name} later"] = _weights(learner)
    for kind, options in GATHERED.items():
        found[kind.__name__] = _exact(kind, options, where)
    found["broken"] = _after_a_broken_row(policy, where)
    if where.leads:
        torch.save(found, out / f"{where.size}.pt")


def _after_a_broken_row(policy: Path, where: World) -> dict[str, torch.Tensor]:
    """Return weights after an update that a single rank's share spoils; its statistics are looked at on every rank."""
    learner = _learner(policy, where)
    shortest = Row((5,), (6,), (math.nan,), 1.0)
    done = learner.step([*ragged(0), shortest])
    assert (done.updates, done.skipped) == (0, 1)
    return _weights(learner)


def _exact(kind: type[Optimizer], options: dict[str, Any], where: World | None) -> dict[str, torch.Tensor]:
    """Return matrices after given gradients: on shards with `WholeMatrices`, or without a world with the optimizer itself."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"wide": (5, 8), "tall": (7, 2), "low": (1, 4)}

    def drawn(shape: tuple[int, int]) -> torch.Tensor:
        whole = torch.randn(shape, generator=generator)
        return whole if where is None else distribute_tensor(whole, where.mesh, [Shard(0)], src_data_rank=None)

    matrices = {name: nn.Parameter(drawn(shape)) for name, shape in shapes.items()}
    optimizer = (
        kind(matrices.values(), **options) if where is None else WholeMatrices(kind, list(matrices.values()), **options)
    )
    for _ in range(3):
        for name, matrix in matrices.items():
            matrix.grad = drawn(shapes[name])
        optimizer.step()
    return {
        name: value.full_tensor().detach() if isinstance(value, DTensor) else value.detach()
        for name, value in matrices.items()
    }


def _learner(policy: Path, where: World, **changes: Any) -> Learner:
    return Learner(policy, LearnerSection.model_validate({**UNCLIPPED, **changes}), where, seed=5)


def _weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.full_tensor().clone() for name, value in learner.model.state_dict().items()}


def _same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        difference = float((value - expected[name]).abs().max())
        assert difference <= tolerance, name


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_a_plain_loop(policy: Path, results: Path, loss: str, ranks: int) -> None:
    """Two steps of SGD end, in float32, where plain gradients lead: to 1e-6, at gradients of up to 1 and a rate of 0.1.

    Rows are ragged and weighted, microbatches several, shares unequal. That a mean over completions is not one over
    tokens, and that a reference and a cap matter, shows in that the four ends differ.
    """
    model = load_model(policy)
    settings = LOSSES[loss]
    options: dict[str, Any] = {"sequence_mean": settings.get("loss") == "sequence_mean"}
    if "importance" in settings:
        options["cap"] = settings["importance_cap"]
    if "kl" in settings:
        options |= {"kl": settings["kl"], "reference": copy.deepcopy(model)}
    for step in range(STEPS):
        model.zero_grad()
        plain_loss(model, ragged(step), **options).backward()  # type: ignore[no-untyped-call] # torch's own stub
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=UNCLIPPED["lr"])
    found = torch.load(results / f"{ranks}.pt")
    _same(found[loss], dict(model.state_dict()), 1e-6)
    others = [found[name]["lm_head.weight"] for name in LOSSES if name != loss]
    assert all(float((other - found[loss]["lm_head.weight"]).abs().max()) > 2e-5 for other in others)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_row_that_is_broken_on_one_rank_is_learned_by_none(policy: Path, results: Path, ranks: int) -> None:
    """All ranks leave the update out together: the weights are those before it."""
    _same(torch.load(results / f"{ranks}.pt")["broken"], dict(load_model(policy).state_dict()), 0.0)


def _plain_optimizers(name: str, model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Return PyTorch's own, on a model that is not sharded."""
    options: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.1}
    if name != "muon":
        kinds: dict[str, Any] = {
            "adamw": torch.optim.AdamW,
            "adam": torch.optim.Adam,
            "sgd": torch.optim.SGD,
            "adafactor": torch.optim.Adafactor,
        }
        return [kinds[name](model.parameters(), **options)]
    layers = [value for name, value in model.named_parameters() if "layers" in name and value.ndim == 2]
    rest = [value for name, value in model.named_parameters() if "layers" not in name or value.ndim != 2]
    return [
        torch.optim.Muon(layers, adjust_lr_fn="match_rms_adamw", **options),
        torch.optim.AdamW(rest, **options),
    ]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_on_shards_are_pytorchs_own(policy: Path, results: Path, name: str, ranks: int) -> None:
    """Each of the five, with weight decay and gradients scaled to a norm of 1, ends where it ends unsharded."""
    model = load_model(policy)
    optimizers = _plain_optimizers(name, model)
    for step in range(STEPS):
        model.zero_grad()
        plain_loss(model, ragged(step)).backward()  # type: ignore[no-untyped-call] # torch's own stub
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
    _same(torch.load(results / f"{ranks}.pt")[name], dict(model.state_dict()), TOLERANCE[name])


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("kind", GATHERED)
def test_an_optimizer_that_needs_whole_matrices_sees_them(results: Path, kind: type[Optimizer], ranks: int) -> None:
    """Given the same gradients, shards of a matrix end exactly where the matrix does, also a rank's that has no row."""
    _same(torch.load(results / f"{ranks}.pt")[kind.__name__], _exact(kind, GATHERED[kind], None), 0.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_checkpoint_is_read_on_another_number_of_ranks(policy: Path, results: Path, name: str) -> None:
    """From two ranks and from one to one: the next step is the one that would have followed; from one, to the bit."""
    for ranks in (1, 2):
        with world("cpu", timeout_s=TIMEOUT_S) as where:
            learner = _learner(policy, where, optimizer=name, lr=1e-2, weight_decay=0.1, grad_clip=1.0)
            found = checkpoint.latest(results / f"{name}-{ranks}")
            assert found is not None
            learner.load(found)
            learner.step(ragged(STEPS))
            expected = torch.load(results / f"{ranks}.pt")[f"{name} later"]
            _same(_weights(learner), expected, 0.0 if ranks == 1 else TOLERANCE[name])


def test_two_ranks_resume_from_one_and_from_two(policy: Path, results: Path) -> None:
    """On as many ranks as it was saved from, to the bit; on more, to rounding; whatever the optimizer."""
    on_ranks(2, _resume, policy, results)


def _resume(policy: Path, results: Path, where: World) -> None:
    for name in OPTIMIZERS:
        for ranks in (1, 2):
            learner = _learner(policy, where, optimizer=name, lr=1e-2, weight_decay=0.1, grad_clip=1.0)
            found = checkpoint.latest(results / f"{name}-{ranks}")
            assert found is not None
            learner.load(found)
            learner.step(ragged(STEPS))
            expected = torch.load(results / f"{ranks}.pt")[f"{name} later"]
            _same(_weights(learner), expected, 0.0 if ranks == 2 else TOLERANCE[name])
