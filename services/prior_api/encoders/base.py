"""What an encoder is: texts in, vectors out. Knows no model; each file beside this one is one kind.

An encoder is loaded and called in one worker thread, never on the event loop; torch is imported only there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rollout_budget.wire import ModelPart
from services.prior_api.heads.base import Float32Array


class Encoder(Protocol):
    """What a feature cache needs: a name that changes whenever the features do, their width, and two slow calls.

    Attributes:
        surface: how many numbers at the end of a vector describe the text's surface (`surface.py`), 0 for none.
        unit: whether what comes before them has length 1, which kernels on distances need.
        part: name, licence and source of the weights.
    """

    name: str
    width: int
    surface: int
    unit: bool
    part: ModelPart

    def load(self) -> None:
        """Load weights; called once, before the first `encode`, in the encoder's thread.

        Raises:
            Unloadable: they are not there or not what they should be.
        """
        ...

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Return one vector per text, shape (len(texts), width); called in the encoder's thread."""
        ...
