"""Outcome ranges: what leaves the core can always come back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget.outcomes import OutcomeRange

BOUNDS = st.floats(min_value=-1e6, max_value=1e6)


@given(BOUNDS, st.floats(min_value=1e-3, max_value=1e6), st.lists(st.floats(min_value=0.0, max_value=1.0), max_size=5))
def test_values_stay_in_their_range_whatever_the_rounding(low: float, width: float, values: list[float]) -> None:
    """Mapped to the caller's scale, no value leaves the range, so it can be handed back; the ends are met exactly."""
    outcome_range = OutcomeRange(low, low + width)
    mapped = outcome_range.from_unit([0.0, 1.0, *values])
    assert mapped[0] == outcome_range.low
    assert ((mapped >= outcome_range.low) & (mapped <= outcome_range.high)).all()
    back = outcome_range.to_unit(mapped)
    assert np.allclose(back, [0.0, 1.0, *values], atol=1e-6)
