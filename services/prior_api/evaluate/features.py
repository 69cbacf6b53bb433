"""Features of a folder's prompts from an encoder of the registry, kept in a file so that they are computed once.

The file holds the vectors by text hash; its name holds the encoder's, which changes whenever its features do.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from services.prior_api.encoders import Encoder
from services.prior_api.evaluate.data import Outcomes, text_hash
from services.prior_api.evaluate.progress import Progress
from services.prior_api.heads.base import Float32Array

FIRST_CALL = 32
LARGEST_CALL = 4096
CALL_S = 1.0
"""Texts handed over together, by length so that little is padding: twice as many each time until a call takes this long.
A laptop then shows progress each second or so, and a GPU is given what it can take."""
KEEP_EVERY_S = 30.0
"""How often the file is written: what an interrupted run loses at most."""


@dataclass(frozen=True, slots=True)
class Features:
    """Unit vectors by text hash, how many were computed just now and in how many seconds (loading not counted)."""

    vectors: dict[str, Float32Array]
    computed: int
    seconds: float


def features(outcomes: Outcomes, encoder: Encoder, folder: Path, stream: TextIO) -> Features:
    """Return the features of every prompt that has a text, computing those that no earlier run left in `folder`.

    Raises:
        Unloadable: the encoder cannot be loaded.
    """
    texts = {text_hash(outcomes.texts[key]): outcomes.texts[key] for key in outcomes.prompts if key in outcomes.texts}
    path = cache(encoder, folder)
    vectors = _kept(path)
    missing = sorted(texts.keys() - vectors.keys(), key=lambda item: (len(texts[item]), item))
    seconds = _compute(encoder, {item: texts[item] for item in missing}, vectors, path, stream) if missing else 0.0
    return Features({item: vectors[item] for item in texts}, len(missing), seconds)


def _compute(
    encoder: Encoder, texts: dict[str, str], vectors: dict[str, Float32Array], path: Path, stream: TextIO
) -> float:
    """Add the features of `texts`, by hash and in order of length, to `vectors`; return the seconds that it took."""
    encoder.load()
    began = kept = time.monotonic()
    progress = Progress(stream, f"encoding with {encoder.name}", "prompts", len(texts))
    hashes, size = list(texts), FIRST_CALL
    while hashes:
        part, hashes = hashes[:size], hashes[size:]
        called = time.monotonic()
        vectors |= zip(part, encoder.encode([texts[item] for item in part]), strict=True)
        now = time.monotonic()
        size = min(2 * size, LARGEST_CALL) if now - called < CALL_S / 2 else size
        progress.add(len(part))
        if now - kept > KEEP_EVERY_S:
            keep(path, vectors)
            kept = now
    seconds = time.monotonic() - began
    keep(path, vectors)
    return seconds


def cache(encoder: Encoder, folder: Path) -> Path:
    """Return the file that keeps an encoder's features."""
    return folder / f"features-{re.sub(r'[^A-Za-z0-9._-]+', '-', encoder.name)}.npz"


def keep(path: Path, vectors: dict[str, Float32Array]) -> None:
    """Write vectors by text hash; the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, hashes=np.array(list(vectors)), vectors=np.stack(list(vectors.values())))
    part.replace(path)


def _kept(path: Path) -> dict[str, Float32Array]:
    if not path.is_file():
        return {}
    with np.load(path) as stored:
        return dict(zip(stored["hashes"].tolist(), stored["vectors"], strict=True))
