"""How what is left is shared over groups, some of which hold rollouts that they have not drawn."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget.stopping import Curve


@given(held=st.integers(0, 20), number=st.integers(1, 20), scale=st.floats(0.01, 10.0), size=st.floats(0.1, 50.0))
def test_a_rollout_beyond_those_held_is_worth_what_it_would_be_after_them(
    held: int, number: int, scale: float, size: float
) -> None:
    """Whoever holds some already is further down its own curve, so the others come first."""
    curve = Curve(np.array([scale]), np.array([size]), np.array([64]))
    later = curve.beyond(np.array([held]))
    assert later.most.tolist() == [64 - held]
    np.testing.assert_allclose(later.marginal(np.array([number])), curve.marginal(np.array([held + number])))
