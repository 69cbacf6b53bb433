"""Where a model runs, with what numbers and how many tokens at a time. The choice can be read without torch.

On a CPU bfloat16 pays only where the processor multiplies it (AVX512-BF16, AMX); there it is 2.7 times as fast as
float32 on the packaged encoder, at cosines above 0.9999 (`python -m benchmarks.prior.encoders`). On a GPU it is the rule,
and the model is compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]

CPU_BATCH_TOKENS = 1024
"""Activations of a small model stay in the cache: 512 and 1,024 were fastest of 512 to 8,192 on the packaged encoder."""
GPU_BATCH_TOKENS = 65_536
"""Enough to fill a large card with a model of 0.6e9 parameters; 134 MB of hidden states in bfloat16."""
CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True, slots=True)
class Placement:
    """A device that is there, and numbers that it is quick at.

    Attributes:
        device: `cpu` or `cuda`.
        precision: of weights and activations.
        threads: on a CPU.
        batch_tokens: tokens that go through the model at once, padding included.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: int = 1
    batch_tokens: int = CPU_BATCH_TOKENS

    @classmethod
    def choose(cls, device: Device, precision: Precision, threads: int, batch_tokens: int | None = None) -> Placement:
        """Settle what was left open.

        Raises:
            ValueError: `cuda` was asked for and there is none.
        """
        there = device != "cpu" and _cuda_is_there()
        if device == "cuda" and not there:
            raise ValueError("device=cuda, but torch sees no CUDA device: install a CUDA build of torch, or set cpu")
        quick = there or bool(BFLOAT16_FLAGS & _cpu_flags())
        settled: Literal["float32", "bfloat16"] = "bfloat16" if quick else "float32"
        default = GPU_BATCH_TOKENS if there else CPU_BATCH_TOKENS
        return cls(
            "cuda" if there else "cpu",
            settled if precision == "auto" else precision,
            threads,
            default if batch_tokens is None else batch_tokens,
        )

    @property
    def suffix(self) -> str:
        """What an encoder's name ends with: other numbers are other features."""
        return "" if self.precision == "float32" else "-bf16"

    def place(self, model: Any) -> Any:
        """Return a torch module for inference here; called in the encoder's thread."""
        import torch  # noqa: PLC0415  seconds to import, and only where a model is loaded

        if self.device == "cpu":
            torch.set_num_threads(self.threads)
        model = model.to(self.device, getattr(torch, self.precision)).eval().requires_grad_(requires_grad=False)
        return torch.compile(model, dynamic=True) if self.device == "cuda" else model


def _cuda_is_there() -> bool:
    import torch  # noqa: PLC0415  seconds to import; a device of `cpu` asks nothing

    return torch.cuda.is_available()


def _cpu_flags() -> set[str]:
    if not CPUINFO.is_file():
        return set()
    for line in CPUINFO.read_text("utf-8", errors="replace").splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()
