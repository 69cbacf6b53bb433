"""The tensors of an export, one at a time, and what must be known of them before they come.

An export holds whole tensors, gathered from all ranks, so sending from it is right however the learner is sharded. The
price is a pass over the disk that sending from the learner's memory would save; on a memory file system it is small.
Importable without torch; opening tensors needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from trainer.errors import WeightUpdateFailed

if TYPE_CHECKING:
    import torch

TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Dtypes of weights, as safetensors and as torch name them."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Names, dtypes and shapes of all tensors, in the order in which `tensors` brings them."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]

    def update_info(self) -> dict[str, Any]:
        """Return it in the wire form of vLLM's broadcast engines."""
        return {"names": self.names, "dtype_names": self.dtype_names, "shapes": self.shapes}


def manifest(directory: Path) -> Manifest:
    """Read what an export holds, without its tensors.

    Raises:
        WeightUpdateFailed: it holds something that is not a weight.
    """
    found = Manifest([], [], [])
    for file in _files(directory):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping, it cannot be iterated over
                part = tensors.get_slice(name)
                if part.get_dtype() not in TORCH_NAMES:
                    raise WeightUpdateFailed(f"{file}: {name} is of {part.get_dtype()}, which is not sent to servers")
                found.names.append(name)
                found.dtype_names.append(TORCH_NAMES[part.get_dtype()])
                found.shapes.append(list(part.get_shape()))
    return found


def tensors(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Open the tensors of an export one after the other, in the order of its manifest."""
    for file in _files(directory):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping, it cannot be iterated over
                yield name, opened.get_tensor(name)


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))
