"""Processes that learn together, and a model sharded over them with FSDP2.

Owns the process group (gloo on CPUs, NCCL beside it on GPUs; a group of one without torchrun), the sharding, and the few
collectives the trainer needs. One code path for one process and for many: a world of size 1 is sharded over itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class World:
    """This process among those that learn together."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh

    @property
    def leads(self) -> bool:
        """Whether this process drives the run: draws rollouts, writes files, talks to services."""
        return self.rank == 0

    def broadcast(self, value: Any = None) -> Any:
        """Return rank 0's picklable value on every rank; every rank must call."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        dist.barrier()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over ranks of a tensor of equal shape on each."""
        total = values.detach().clone()
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
        return total

    def largest(self, values: torch.Tensor) -> torch.Tensor:
        """Return the elementwise maximum over ranks."""
        most = values.detach().clone()
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return most


def device_kind(device: str) -> str:
    """Return "cpu" or "cuda"; "auto" is "cuda" where there is one."""
    return device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def world(device: str, *, timeout_s: float) -> Iterator[World]:
    """Join the processes that torchrun has started, or make a world of this one; leave it at the end.

    Args:
        device: "cpu", "cuda" or "auto".
        timeout_s: longest wait of a collective, rollouts of rank 0 included; beyond, the run fails instead of hanging.
    """
    kind = device_kind(device)
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    timeout = timedelta(seconds=timeout_s)
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=timeout)
    try:
        place = torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device("cpu")
        mesh = init_device_mesh(kind, (dist.get_world_size(),), mesh_dim_names=("dp",))
        yield World(rank=dist.get_rank(), size=dist.get_world_size(), device=place, mesh=mesh)
    finally:
        dist.destroy_process_group()


def shard(model: PreTrainedModel, where: World, *, dtype: torch.dtype) -> None:
    """Shard a model in place: each decoder layer, the embedding and the head are groups of their own, the root the rest.

    Weights, gradients and AdamW stay float32; the forward and backward pass runs in `dtype`, and gradients are reduced
    in float32. A head that is tied to the embedding stays with it in the root.
    """
    low = dtype if dtype != torch.float32 else None
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32, output_dtype=torch.float32)
    for module in model.modules():
        if type(module).__name__ in (model._no_split_modules or ()):  # noqa: SLF001 - where transformers names its layers
            fully_shard(module, mesh=where.mesh, mp_policy=_inner(policy))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and head.weight is not embedding.weight:
        fully_shard(embedding, mesh=where.mesh, mp_policy=_inner(policy))
        fully_shard(head, mesh=where.mesh, mp_policy=_inner(policy), reshard_after_forward=False)
    fully_shard(model, mesh=where.mesh, mp_policy=policy)


def synchronise_gradients(model: nn.Module, *, last: bool) -> None:
    """Reduce gradients in the next backward pass only if it is the last microbatch of a minibatch."""
    assert isinstance(model, FSDPModule)  # noqa: S101 - `shard` has run
    model.set_requires_gradient_sync(last)


def clip_gradients(model: nn.Module, largest: float) -> float:
    """Scale gradients down to a global norm of at most `largest`; return the norm before, also where it is not finite."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), largest)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _inner(policy: MixedPrecisionPolicy) -> MixedPrecisionPolicy:
    """Return the policy of an inner group, whose outputs stay in the low precision."""
    return MixedPrecisionPolicy(param_dtype=policy.param_dtype, reduce_dtype=policy.reduce_dtype)
