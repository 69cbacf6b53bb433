"""Allocation: the closed form equals a loop, and the threshold's share is the best of all shares."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget import allocation, stopping
from rollout_budget.groups import Groups
from rollout_budget.reliability import Reliability
from rollout_budget.stopping import Curve, Tabulated

curve = st.tuples(
    st.floats(1e-200, 1.0) | st.just(0.0), st.floats(2.0**-10, 1e3) | st.integers(1, 20).map(float), st.integers(0, 20)
)
curves = st.lists(curve, min_size=1, max_size=8)


def build(rows: list[tuple[float, float, int]]) -> Curve:
    scale, size, most = zip(*rows, strict=True)
    return Curve(np.array(scale), np.array(size), np.array(most, dtype=np.int64))


def worth_of(scale: float, size: float, number: int) -> float:
    return scale / ((size + (number - 1)) * (size + number))


def counted(scale: float, size: float, most: int, price: float) -> int:
    """Count rollouts one by one while the next is worth more than the price."""
    number = 0
    while number < most and worth_of(scale, size, number + 1) > price:
        number += 1
    return number


@given(curves, st.floats(1e-290, 1.0) | st.just(0.0))
def test_wanted_equals_a_loop(rows: list[tuple[float, float, int]], price: float) -> None:
    """The quadratic's solution is the loop's, for any curve and price."""
    assert allocation.wanted(build(rows), price).tolist() == [counted(*row, price) for row in rows]


@given(curves, st.integers(0, 7), st.integers(1, 20))
def test_wanted_is_exact_at_its_own_boundary(rows: list[tuple[float, float, int]], which: int, number: int) -> None:
    """At a price equal to some rollout's worth, that rollout is not worth more than it."""
    scale, size, _ = rows[which % len(rows)]
    price = worth_of(scale, size, number)
    assert allocation.wanted(build(rows), price).tolist() == [counted(*row, price) for row in rows]


@pytest.mark.parametrize("price", [0.0, 5e-324, 1e-300])
def test_a_free_rollout_is_wanted_wherever_it_is_worth_anything(price: float) -> None:
    """Price 0, or nearly: everything but groups whose curve is 0; no overflow."""
    assert allocation.wanted(build([(1.0, 1.0, 9), (0.0, 1.0, 9), (1e-9, 1e6, 3)]), price).tolist() == [9, 0, 3]


def test_rules_without_a_price_want_everything() -> None:
    """`priced` False asks for `most` whatever it costs."""
    worth = Curve(np.ones(2), np.ones(2), np.array([3, 0]), priced=False)
    assert allocation.wanted(worth, 1e9).tolist() == [3, 0]


@given(
    st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0.1, 9.0), st.integers(0, 3)), min_size=1, max_size=4),
    st.integers(0, 13),
)
def test_share_is_the_best_of_all_shares(rows: list[tuple[float, float, int]], cap: int) -> None:
    """No way to hand out the cap saves more: every one is enumerated."""
    worth = build(rows)
    granted = allocation.share(worth, worth.most, cap)
    assert granted.sum() == min(cap, worth.most.sum())
    assert ((granted >= 0) & (granted <= worth.most)).all()

    def saved(numbers: tuple[int, ...]) -> float:
        return sum(
            worth_of(scale, size, j + 1) for (scale, size, _), n in zip(rows, numbers, strict=True) for j in range(n)
        )

    every = product(*(range(most + 1) for _, _, most in rows))
    best = max(saved(numbers) for numbers in every if sum(numbers) <= cap)
    assert saved(tuple(granted.tolist())) == pytest.approx(best, rel=1e-12)


@given(curves, st.integers(-3, 200))
def test_share_sums_exactly(rows: list[tuple[float, float, int]], cap: int) -> None:
    """The sum is the smaller of cap and wish, never more, for any curve, ties and zeros included."""
    worth = build(rows)
    granted = allocation.share(worth, worth.most, cap)
    assert granted.sum() == min(max(cap, 0), worth.most.sum())
    assert ((granted >= 0) & (granted <= worth.most)).all()


def test_equal_worth_is_settled_by_position() -> None:
    """Six equal groups, a cap of 8: one each, then the second of the first two."""
    worth = build([(0.5, 3.0, 4)] * 6)
    assert allocation.share(worth, worth.most, 8).tolist() == [2, 2, 1, 1, 1, 1]


@given(curves, st.integers(0, 60), st.data())
def test_share_grants_the_same_worth_in_any_order(
    rows: list[tuple[float, float, int]], cap: int, data: st.DataObject
) -> None:
    """Permuting the groups changes at most who of equals is served."""
    order = data.draw(st.permutations(range(len(rows))))

    def granted_worth(some: list[tuple[float, float, int]]) -> list[float]:
        worth = build(some)
        granted = allocation.share(worth, worth.most, cap).tolist()
        return sorted(
            worth_of(scale, size, j + 1) for (scale, size, _), n in zip(some, granted, strict=True) for j in range(n)
        )

    assert granted_worth(rows) == granted_worth([rows[i] for i in order])


def test_a_cap_over_fixed_groups_is_shared_evenly() -> None:
    """Groups of 0, 2 and 0 with 6 more between them end at 3, 3 and 2."""
    worth = stopping.get("fixed").worth(Groups.of([0.5] * 3, [[], [1.0, 0.0], []]), Reliability(), 4)
    assert allocation.share(worth, worth.most, 6).tolist() == [3, 1, 2]


@pytest.mark.parametrize("cap", [-1, 0, 5])
def test_no_groups_share_nothing(cap: int) -> None:
    """An empty batch is answered with an empty batch."""
    worth = Curve(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64))
    assert allocation.share(worth, worth.most, cap).shape == allocation.wanted(worth, 0.1).shape == (0,)


def tabulated(curve: Curve, columns: int) -> Tabulated:
    """Return the same curves as a table of `columns` rollouts."""
    rows = [curve.marginal(np.full(curve.most.shape, number)) for number in range(1, columns + 1)]
    return Tabulated(np.stack(rows, axis=1), curve.most, curve.priced)


@given(curves, st.floats(1e-290, 1.0) | st.just(0.0), st.integers(-3, 200), st.integers(0, 9))
def test_a_table_is_solved_like_the_closed_form(
    rows: list[tuple[float, float, int]], price: float, cap: int, held: int
) -> None:
    """Wishes, shares and what lies beyond rollouts already held are the same for both shapes of a worth."""
    curve = build(rows)
    table = tabulated(curve, 20)
    wish = allocation.wanted(curve, price)
    assert allocation.wanted(table, price).tolist() == wish.tolist()
    assert allocation.share(table, wish, cap).tolist() == allocation.share(curve, wish, cap).tolist()
    some = np.arange(len(rows))[::2]
    spare = np.minimum(held, curve.most)
    further, same = table.beyond(spare).take(some), curve.beyond(spare).take(some)
    assert further.most.tolist() == same.most.tolist()
    in_table = spare[some] + 1 <= 20
    np.testing.assert_allclose(
        further.marginal(np.ones_like(some))[in_table], same.marginal(np.ones_like(some))[in_table], rtol=1e-9
    )


def test_a_table_is_worth_nothing_past_its_end() -> None:
    """The fourth rollout of a table of three is worth 0, as is any of an empty one."""
    table = Tabulated(np.array([[0.3, 0.2, 0.1]]), np.array([3]))
    assert table.marginal(np.array([4])).tolist() == [0.0]
    assert table.beyond(np.array([2])).marginal(np.array([1])).tolist() == [0.1]
    assert table.beyond(np.array([2])).marginal(np.array([2])).tolist() == [0.0]
    nothing = Tabulated(np.empty((2, 0)), np.zeros(2, dtype=np.int64))
    assert nothing.marginal(np.array([1, 1])).tolist() == [0.0, 0.0]
    assert nothing.beyond(np.array([1, 1])).highest == 0.0


@given(curves, st.integers(1, 20))
def test_no_rollout_is_worth_more_than_the_highest(rows: list[tuple[float, float, int]], number: int) -> None:
    """The bound that a share's search starts from holds for both shapes."""
    curve = build(rows)
    at = np.full(len(rows), number)
    assert (curve.marginal(at) <= curve.highest * (1 + 1e-12)).all()
    assert (tabulated(curve, 20).marginal(at) <= tabulated(curve, 20).highest).all()
