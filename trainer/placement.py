"""Which GPUs learn and which serve. Pure: names of devices in, a placement out.

The learner's ranks take the first GPUs, servers the others, one each unless fewer servers are asked for; those then spread
over several (tensor parallel). Where no GPU is left, one server shares the last one with the learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.errors import ConfigError

SHARED = 0.4
"""Share of a GPU's memory that a server takes beside a learner: weights and cache of the server, weights, gradients and
optimizer of the learner (16 bytes a parameter in float32) have to fit together."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one server runs.

    Attributes:
        gpus: its devices, as CUDA_VISIBLE_DEVICES names them; none is the CPU.
        share: of its memory that it may take; None leaves it to vLLM.
    """

    gpus: tuple[str, ...] = ()
    share: float | None = None

    @property
    def env(self) -> dict[str, str]:
        """What a server's process needs to see its devices and no others."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {}

    @property
    def flags(self) -> tuple[str, ...]:
        """What vLLM is told."""
        parallel = ("--tensor-parallel-size", str(len(self.gpus))) if len(self.gpus) > 1 else ()
        return parallel if self.share is None else (*parallel, "--gpu-memory-utilization", str(self.share))


def place(gpus: Sequence[str], *, ranks: int, servers: int | None = None) -> list[Place]:
    """Return where each vLLM server runs.

    Args:
        gpus: devices of this machine that may be used; none is a machine without.
        ranks: of the learner, each on a GPU of its own.
        servers: how many; by default one per GPU that the learner leaves, or one.

    Raises:
        ConfigError: there are not enough GPUs.
    """
    if not gpus:
        return [Place()] * (servers or 1)
    if len(gpus) < ranks:
        raise ConfigError(f"--nproc {ranks}: there are {len(gpus)} GPUs; a rank needs one of its own")
    free = list(gpus[ranks:])
    if not free:
        if (servers or 1) > 1:
            raise ConfigError(
                f"--servers {servers}: the learner takes all {len(gpus)} GPUs; one server can share the last"
            )
        return [Place((gpus[-1],), SHARED)]
    count = servers or len(free)
    if count > len(free):
        raise ConfigError(
            f"--servers {count}: the learner leaves {len(free)} of {len(gpus)} GPUs; a server needs one of its own"
        )
    each = len(free) // count
    return [Place(tuple(free[start * each : (start + 1) * each])) for start in range(count)]
