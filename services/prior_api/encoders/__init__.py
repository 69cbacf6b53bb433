"""Encoders turn texts into unit vectors. The default needs no model hub and no GPU: its weights come in a package."""

from __future__ import annotations

from collections.abc import Callable

from services.prior_api.encoders.base import Encoder
from services.prior_api.encoders.minilm import MiniLM

ENCODERS: dict[str, Callable[[int], Encoder]] = {"minilm": MiniLM}
"""By the name used in settings; each is made with the number of threads it may use."""

__all__ = ["ENCODERS", "Encoder", "MiniLM"]
