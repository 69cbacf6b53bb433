"""GPUs are shared out so that learner and servers never meet, unless there is only one."""

from __future__ import annotations

import pytest

from trainer.errors import ConfigError
from trainer.placement import SHARED, Place, place


def test_servers_get_what_the_learner_leaves() -> None:
    """One each, or spread over several where fewer are asked for."""
    assert place(["0", "1"], ranks=1) == [Place(("1",))]
    assert place(list("01234567"), ranks=2) == [Place((gpu,)) for gpu in "234567"]
    two = place(["GPU-a", "GPU-b", "GPU-c", "GPU-d", "GPU-e"], ranks=1, servers=2)
    assert two == [Place(("GPU-b", "GPU-c")), Place(("GPU-d", "GPU-e"))]
    assert two[0].env == {"CUDA_VISIBLE_DEVICES": "GPU-b,GPU-c"}
    assert two[0].flags == ("--tensor-parallel-size", "2")


def test_one_gpu_is_shared_and_none_is_the_cpu() -> None:
    """A server beside a learner takes part of the memory; without a GPU nothing is said of devices."""
    (shared,) = place(["0"], ranks=1)
    assert shared == Place(("0",), SHARED)
    assert shared.flags == ("--gpu-memory-utilization", "0.4")
    assert place([], ranks=2, servers=3) == [Place()] * 3
    assert (Place().env, Place().flags) == ({}, ())


@pytest.mark.parametrize(
    ("gpus", "ranks", "servers", "told"),
    [(1, 2, None, "there are 1 GPUs"), (2, 2, 2, "can share the last"), (3, 1, 3, "leaves 2 of 3")],
)
def test_too_few_gpus_are_told(gpus: int, ranks: int, servers: int | None, told: str) -> None:
    """With the flag to change and what there is."""
    with pytest.raises(ConfigError, match=told):
        place([str(gpu) for gpu in range(gpus)], ranks=ranks, servers=servers)
