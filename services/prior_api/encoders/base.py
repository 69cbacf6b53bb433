"""What an encoder is: texts in, unit vectors out. Knows no model; each file beside this one is one.

An encoder is loaded and called in one worker thread, never on the event loop; torch is imported only there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.prior_api.heads.base import Float32Array


class Encoder(Protocol):
    """What a feature cache needs: a name that changes whenever the features do, their width, and two slow calls."""

    name: str
    width: int

    def load(self) -> None:
        """Load weights; called once, before the first `encode`, in the encoder's thread."""
        ...

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Return one unit vector per text, shape (len(texts), width); called in the encoder's thread."""
        ...
