"""How what is left is shared over groups, some of which hold rollouts that they have not drawn."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget.allocation import marginal
from rollout_budget.engine.waves import beyond
from rollout_budget.stopping import Worth


@given(held=st.integers(0, 20), number=st.integers(1, 20), scale=st.floats(0.01, 10.0), size=st.floats(0.1, 50.0))
def test_a_rollout_beyond_those_held_is_worth_what_it_would_be_after_them(
    held: int, number: int, scale: float, size: float
) -> None:
    """Whoever holds some already is further down its own curve, so the others come first."""
    curve = Worth(np.array([scale]), np.array([size]), np.array([64]))
    later = beyond(curve, np.array([held]))
    assert later.most.tolist() == [64 - held]
    np.testing.assert_allclose(marginal(later, np.array([number])), marginal(curve, np.array([held + number])))
