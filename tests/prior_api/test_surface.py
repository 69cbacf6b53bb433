"""What texts look like, as numbers: against counts made by hand, and behind any encoder's vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.prior_api.encoders.surface import NUMBERS, Described, describe
from services.prior_api.heads.unit import scaled, shortened
from tests.prior_api.fakes import WIDTH, FakeEncoder, embed


def test_counts_and_shares_of_a_known_text() -> None:
    """A small problem, counted by hand."""
    text = r"Find $\frac{12}{7}$ of X. Find it?"
    numbers = describe([text])[0]
    counts = [len(text), 6, 5, 17 / 6, 2, 2, 12.0, 1, 1, 2, 0, 0, 0, 0, 2, 0, 1, 1, 0]
    expected = [math.log1p(count) for count in counts]
    shares = [0.0, 3 / len(text), 3 / len(text), 5 / len(text)]
    assert numbers[:-1] == pytest.approx([*expected, *shares], abs=1e-6)
    assert 0.5 < numbers[-1] < 1.5


def test_scripts_and_repetition_show() -> None:
    """Chinese is told from English, and a text that repeats itself from one that does not."""
    chinese, english, again = describe(["求最小值。", "Find the least value.", "Find the least value. " * 20])
    assert chinese[-5] == 1.0
    assert english[-5] == 0.0
    assert again[-1] < english[-1] / 2


@given(st.text(max_size=200))
def test_any_text_has_finite_numbers(text: str) -> None:
    """Whatever a prompt holds, its numbers are finite and the same each time, alone or with others."""
    numbers = describe([text])
    assert numbers.shape == (1, NUMBERS)
    assert np.isfinite(numbers).all()
    assert np.array_equal(describe(["other", text])[1:], numbers)


def test_an_encoder_is_followed_by_the_surface() -> None:
    """The vectors come first and unchanged; the name says that more follows; heads can leave it out or scale around it."""
    encoder = Described(FakeEncoder())
    vector = encoder.encode(["a b"])[0]
    assert (encoder.width, encoder.surface, encoder.unit) == (WIDTH + NUMBERS, NUMBERS, True)
    assert encoder.name == "fake/1+surface/1"
    assert np.array_equal(vector, np.concatenate([embed("a b"), describe(["a b"])[0]]))
    assert np.array_equal(shortened({"x": vector}, NUMBERS)["x"], embed("a b"))
    stretched = np.concatenate([3 * vector[:WIDTH], vector[WIDTH:]])
    assert scaled({"x": stretched}, NUMBERS)["x"] == pytest.approx(vector, abs=1e-6)
