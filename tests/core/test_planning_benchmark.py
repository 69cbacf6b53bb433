"""The benchmark of plans: every rule keeps to the budget, the bound bounds, and a plan's weights undo its choice."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.planning import __main__ as command
from benchmarks.planning import report
from benchmarks.planning.peers import Greso, Mopps, Opened, Oracle, Speed, Uniform
from benchmarks.planning.plan import Past
from benchmarks.planning.simulate import Figures, run
from benchmarks.planning.world import REGIMES, Length, Regime, World

SHORT = Length(steps=12, groups=16, size=4, offered=128)
TRUTHS = {0: np.random.default_rng(0).beta(0.4, 0.4, 400)}


@pytest.fixture(scope="module", params=REGIMES)
def measured(request: pytest.FixtureRequest) -> tuple[Regime, dict[str, list[Figures]]]:
    """Every method through one short run of a regime."""
    return request.param, command.measure(TRUTHS, {}, request.param, SHORT)


def test_no_rule_beats_the_oracle(measured: tuple[Regime, dict[str, list[Figures]]]) -> None:
    """Per rollout drawn, what was screened out included; a quarter is the most there is."""
    _, found = measured
    best = found["oracle"][0].signal
    assert best <= 0.25
    assert all(runs[0].signal <= best + 1e-9 for runs in found.values())
    assert found["plan, truth + N(0, .15)"][0].signal > 1.2 * found["uniform"][0].signal


def test_only_rules_with_chances_have_weights(measured: tuple[Regime, dict[str, list[Figures]]]) -> None:
    """And only a pool can starve a prompt."""
    regime, found = measured
    for name, (figures,) in found.items():
        assert np.isfinite(figures.effective) == (name == "uniform" or name.startswith("plan"))
        assert np.isfinite(figures.wait) == (regime != "stream")
    assert (found["uniform"][0].effective, found["uniform"][0].groups) == (1.0, 16.0)


def test_peers_spend_no_more_than_a_step_has() -> None:
    """SPEED's screening counts; the others open as many groups as all."""
    world = World.of(TRUTHS[0], "recurring", SHORT, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for chooser in (Uniform(), Oracle(), Greso(), Mopps(), Speed(), Speed(further=4)):
        for step in range(SHORT.steps):
            found = chooser.step(world, step, rng)
            assert found.sizes.sum() <= found.cost <= SHORT.rollouts
            assert np.unique(found.places).size == found.places.size


def test_greso_skips_prompts_that_had_no_variance() -> None:
    """Half of the pool always fails: it is opened ever less, and more of the other half."""
    world = World(np.repeat([0.0, 0.5], 64), np.tile(np.arange(128), (60, 1)), "recurring", Length(60, 16, 4, 128))
    chooser, rng = Greso(), np.random.default_rng(2)
    dead = [float((chooser.step(world, step, rng).places < 64).mean()) for step in range(60)]
    assert np.mean(dead[:4]) > 0.35
    assert np.mean(dead[-20:]) < 0.2


def test_mopps_prefers_prompts_near_a_half() -> None:
    """Its posterior is the outcomes it has seen; prompts at 0 are left alone once they were tried."""
    world = World(np.repeat([0.0, 0.5], 64), np.tile(np.arange(128), (60, 1)), "recurring", Length(60, 16, 4, 128))
    chooser, rng = Mopps(), np.random.default_rng(3)
    dead = [float((chooser.step(world, step, rng).places < 64).mean()) for step in range(60)]
    assert np.mean(dead[-20:]) < 0.1


def test_a_drifting_pool_rises_around_its_middle() -> None:
    """By log-odds, so that rates stay in [0, 1]."""
    world = World(np.array([0.0, 0.5, 1.0]), np.tile(np.arange(3), (11, 1)), "drifting", Length(11, 1, 1, 3))
    assert world.rates(5)[1] == pytest.approx(0.5)
    assert world.rates(0)[1] == pytest.approx(1 - world.rates(10)[1])
    assert world.rates(10)[1] == pytest.approx(1 / (1 + np.exp(-1.0)))
    assert ((world.rates(10) >= 0) & (world.rates(10) <= 1)).all()


def test_the_past_of_a_prompt_outweighs_its_prior_in_time() -> None:
    """The value goes to what was seen, and its standard error falls."""
    past = Past.of(np.full(4, 0.9))
    before = past.value(np.arange(4))
    places = np.array([0], dtype=np.int64)
    for _ in range(20):
        past.learn(places, Opened(places, np.array([4]), np.array([1]), 4))
    value, error = past.value(np.arange(4))
    assert value[0] == pytest.approx(0.25, abs=0.05)
    assert error[0] < 0.5 * before[1][0]


def test_a_rule_that_trains_nothing_in_a_step_is_no_error() -> None:
    """All prompts fail: SPEED screens everything out."""
    world = World(np.zeros(64), np.tile(np.arange(64), (3, 1)), "recurring", Length(3, 4, 4, 64))
    figures = run(Speed(), world, np.random.default_rng(0))
    assert (figures.signal, figures.groups, figures.never) == (0.0, 0.0, 1.0)


def test_losses_are_named() -> None:
    """Against the uniform choice, and against the best peer."""

    def figures(signal: float) -> Figures:
        return Figures(0.5, signal, 16.0, 1.0, 1.0, 0.0, 5.0, 0.0)

    runs = {"uniform": [figures(0.1)], "MoPPS": [figures(0.2)], "plan, gp": [figures(0.05)], "oracle": [figures(0.25)]}
    assert list(report.losses("here", runs)) == [
        "here: plan, gp has 0.500 ± 0.000 of the signal of a uniform choice",
        "here: plan, gp has 0.25 ± 0.00 of the signal of MoPPS",
    ]
