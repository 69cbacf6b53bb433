"""The whole state of a run on disk: complete or absent, found again, restored exactly.

Owns the layout `root/step-N/`: DCP files with model, optimiser and shuffling (readable by any number of ranks), random
states per rank, `state.json` with what the loop wants to remember, and a COMPLETE mark, written last. A folder without
the mark does not count. Checkpoints are taken between steps, when no group is open; what a killed step had open goes
back to the budget when its leases end, and the resumed step opens its groups under a new attempt.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed
from torch.distributed.checkpoint.stateful import Stateful
from torch.optim import Optimizer

from trainer.learner.fsdp import World

COMPLETE = "COMPLETE"
"""The file that a checkpoint writes last."""
NAME = re.compile(r"step-(\d+)")


@dataclass(frozen=True, slots=True)
class Subject(Stateful):
    """What is saved and restored on every rank.

    Attributes:
        model: of which only trainable weights are saved; frozen ones are those that the run started from.
        optimizers: which together update it.
        shuffle: of rows.
        steps: taken so far, a scalar integer, changed in place.
    """

    model: nn.Module
    optimizers: Sequence[Optimizer]
    shuffle: torch.Generator
    steps: torch.Tensor

    def state_dict(self) -> dict[str, Any]:
        """Return sharded states; a collective."""
        model, optimizer = get_state_dict(self.model, self.optimizers, options=self._options)
        return {
            "model": model,
            "optimizer": optimizer,
            "shuffle": self.shuffle.get_state(),
            "steps": self.steps.clone(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take sharded states; a collective."""
        set_state_dict(
            self.model,
            self.optimizers,
            model_state_dict=state_dict["model"],
            optim_state_dict=state_dict["optimizer"],
            options=self._options,
        )
        self.shuffle.set_state(state_dict["shuffle"])
        self.steps.copy_(state_dict["steps"])

    @property
    def _options(self) -> StateDictOptions:
        frozen = not all(parameter.requires_grad for parameter in self.model.parameters())
        return StateDictOptions(ignore_frozen_params=frozen, strict=not frozen)


def save(subject: Subject, where: World, *, root: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
    """Write `root/step-N` and remove all but the `keep` newest; every rank must call with the same arguments.

    Args:
        subject: model, optimisers, shuffling and steps.
        where: this rank.
        root: folder of the run's checkpoints, visible to every rank.
        step: steps done.
        state: anything JSON can hold; rank 0's counts.
        keep: checkpoints to keep, this one included.
    """
    final, draft = root / f"step-{step}", root / f".step-{step}.draft"
    if where.leads:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    where.barrier()
    save_distributed({"subject": subject}, checkpoint_id=draft)
    torch.save(_random_state(where), draft / f"random-{where.rank}.pt")
    where.barrier()
    if where.leads:
        (draft / "state.json").write_text(json.dumps({**state, "step": step}), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        (final / COMPLETE).touch()
        _prune(root, keep)
    where.barrier()
    return final


def latest(root: Path) -> Path | None:
    """Return the complete checkpoint of the highest step, or None."""
    complete = _complete(root)
    return complete[-1] if complete else None


def oldest_step(root: Path) -> int:
    """Return the step of the oldest complete checkpoint, of which there is one."""
    return int(_complete(root)[0].name.removeprefix("step-"))


def load(subject: Subject, where: World, directory: Path) -> dict[str, Any]:
    """Restore a checkpoint in place and return the loop's own state; every rank must call.

    On as many ranks as it was saved from, what follows is bit-identical to what would have followed without the stop.
    """
    load_distributed({"subject": subject}, checkpoint_id=directory)
    random_state = directory / f"random-{where.rank}.pt"
    if random_state.is_file():
        _restore_random(torch.load(random_state, weights_only=True))
    state: dict[str, Any] = json.loads((directory / "state.json").read_text(encoding="utf-8"))
    return state


def _complete(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    found = ((NAME.fullmatch(path.name), path) for path in root.iterdir() if (path / COMPLETE).is_file())
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match is not None)]


def _prune(root: Path, keep: int) -> None:
    """Remove old checkpoints, and drafts that killed processes have left."""
    for old in _complete(root)[:-keep]:
        (old / COMPLETE).unlink()
        shutil.rmtree(old, ignore_errors=True)
    for draft in root.glob(".step-*.draft"):
        shutil.rmtree(draft, ignore_errors=True)


def _random_state(where: World) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return {**states, "cuda": torch.cuda.get_rng_state()} if where.device.type == "cuda" else states


def _restore_random(states: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
