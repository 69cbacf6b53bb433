"""PyTorch's optimisers on parameters that are sharded over ranks.

Owns which optimiser gets which parameters, and what is done for one whose rule needs whole matrices. AdamW, Adam and SGD
work element by element, so each rank updates its shards and all ranks together do what one would. Muon orthogonalises a
matrix, and Adafactor averages over rows and columns: these see one gathered matrix at a time (`WholeMatrices`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import SGD, Adafactor, Adam, AdamW, Muon, Optimizer
from transformers import PreTrainedModel

from trainer.config import LearnerSection


class WholeMatrices(Optimizer):
    """One of PyTorch's optimisers, run on one gathered parameter at a time, the same on every rank.

    State of a parameter's shape is kept sharded as the parameter is; what is smaller (Adafactor's rows and columns) on
    every rank. Costs a gather of the parameter, its gradient and such state per update, and memory for one parameter.

    Args:
        kind: the optimiser.
        parameters: sharded by FSDP2, or plain.
        options: of the optimiser.
    """

    def __init__(self, kind: type[Optimizer], parameters: Sequence[nn.Parameter], **options: Any) -> None:
        self._kind = kind
        self._names = tuple(options)
        super().__init__(parameters, options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override] # takes no closure
        """Update every parameter that has a gradient; a collective."""
        if closure is not None:
            raise NotImplementedError("no closure: gradients are accumulated before the step")
        for group in self.param_groups:
            options = {name: group[name] for name in self._names}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, options)

    def _update(self, parameter: nn.Parameter, gradient: torch.Tensor, options: dict[str, Any]) -> None:
        whole = nn.Parameter(_gathered(parameter).clone())
        whole.grad = _gathered(gradient)
        single = self._kind([whole], **options)
        if state := self.state[parameter]:
            single.state[whole] = {name: _gathered(value) for name, value in state.items()}
        single.step()
        parameter.copy_(_sharded_like(parameter, whole.detach()))
        self.state[parameter] = {
            name: _sharded_like(parameter, value) if value.shape == whole.shape else value
            for name, value in single.state[whole].items()
        }


def make_optimizers(model: PreTrainedModel, settings: LearnerSection) -> list[Optimizer]:
    """Return the optimisers that together update every trainable parameter of a sharded model, each one once.

    Weight decay is decoupled, except with `adam` and `sgd`, where it is what torch has: a term of the gradient. SGD is
    plain, without momentum. Muon's updates are scaled to the root mean square of AdamW's (arXiv 2502.16982, section 2.2),
    so that both of its halves share one learning rate.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    match settings.optimizer:
        case "adamw":
            return [AdamW(trainable, **options)]
        case "adam":
            return [Adam(trainable, **options)]
        case "sgd":
            return [SGD(trainable, **options)]
        case "adafactor":
            return [WholeMatrices(Adafactor, trainable, **options)]
        case "muon":
            hidden = hidden_matrices(model)
            known = set(map(id, hidden))
            rest = [parameter for parameter in trainable if id(parameter) not in known]
            muon = WholeMatrices(Muon, hidden, adjust_lr_fn="match_rms_adamw", **options)
            return [muon, *([AdamW(rest, **options)] if rest else [])]


def hidden_matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the trainable matrices between embedding and head."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    known = {id(parameter) for end in ends if end is not None for parameter in end.parameters()}
    return [
        parameter
        for parameter in model.parameters()
        if parameter.requires_grad and parameter.ndim == 2 and id(parameter) not in known
    ]


def set_learning_rate(optimizers: Sequence[Optimizer], lr: float) -> None:
    """Let the next update use this learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr


def _gathered(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _sharded_like(parameter: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Return this rank's shard of a value that every rank holds; nothing is sent."""
    if not isinstance(parameter, DTensor):
        return whole
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
