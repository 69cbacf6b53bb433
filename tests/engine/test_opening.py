"""Where priors come from, how often they are asked for, and what happens when nobody answers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout_budget.client.local import run_now
from rollout_budget.errors import Conflict, InvalidInput, OutcomeUnknown, ServiceError, Unauthorized, Unavailable
from rollout_budget.wire import OpenGroup, Range, RunLimits, SuppliedPrior, TeamLimits
from tests.engine.world import TEAM, Desk


async def test_the_prior_is_asked_once_for_new_groups_without_their_own(desk: Desk) -> None:
    """Not for known groups, not for a caller's own prior, and once per prompt and version."""
    await desk.start()
    own = OpenGroup(group_id="own", prompt_key="own", prior=SuppliedPrior(value=0.25))
    twin = OpenGroup(group_id="twin", prompt_key="a")
    newer = OpenGroup(group_id="newer", prompt_key="a", policy_version=2, policy="q")
    await desk.open("a")
    await desk.open("a", own, "b", twin, newer)
    await desk.open("a", own, "b", twin, newer)
    assert desk.priors.asked == [("p", 0, ("a",)), ("p", 0, ("b", "a")), ("q", 2, ("a",))]


async def test_a_text_that_one_group_brings_serves_its_twins(desk: Desk) -> None:
    """Groups of one prompt are asked for once, with the text wherever it stands."""
    await desk.start()
    twins = [
        OpenGroup(group_id=str(place), prompt_key="k", prompt=text) for place, text in enumerate((None, "2+2?", None))
    ]
    await desk.open(*twins)
    assert desk.priors.texts == {"k": "2+2?"}


async def test_nobody_is_asked_when_every_group_brings_its_own(desk: Desk) -> None:
    """A prior source that is down is not even noticed."""
    await desk.start()
    desk.priors.failure = Unavailable("down")
    answer = await desk.open(
        OpenGroup(group_id="g", prompt_key="k", prior=SuppliedPrior(value=0.25, standard_error=0.1))
    )
    assert not answer.degraded
    assert (answer.groups[0].prior, answer.groups[0].standard_error) == (0.25, 0.1)
    assert (answer.groups[0].prior_source, desk.priors.asked) == ("caller", [])


async def test_the_store_is_not_held_while_the_prior_is_asked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow prior source delays one call, not the others: another transaction can run meanwhile."""
    await desk.start()
    values = desk.priors.values

    async def slow(*arguments: object) -> object:
        async with desk.store.transaction() as transaction:
            assert (await transaction.run(TEAM, "run")).spec.policy == "p"
        return await values(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(desk.priors), "values", lambda _, *arguments: slow(*arguments))
    assert (await desk.open("g")).groups[0].prior_source == "prior_service"


@pytest.mark.parametrize(
    "failure", [Unavailable("slow"), Unauthorized("key"), OutcomeUnknown("?"), ServiceError("odd")]
)
async def test_any_failure_of_the_prior_source_degrades(desk: Desk, failure: ServiceError) -> None:
    """With nothing known the middle of the range serves; the answer names the error."""
    await desk.start(outcome_range=Range(low=-1.0, high=3.0))
    desk.priors.failure = failure
    answer = await desk.open("g")
    assert answer.degraded
    assert failure.code in answer.detail
    assert (answer.groups[0].prior, answer.groups[0].standard_error) == (1.0, None)
    assert answer.groups[0].grant == 4


async def test_a_bug_in_the_prior_source_is_not_hidden(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only failures of a service degrade; anything else is raised, and nothing is stored."""
    await desk.start()

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(type(desk.priors), "values", broken)
    with pytest.raises(ZeroDivisionError):
        await desk.open("g")
    monkeypatch.undo()
    assert (await desk.open("g")).groups[0].prior_source == "prior_service"


async def test_a_useless_prior_gives_way_to_the_running_mean_and_comes_back(desk: Desk) -> None:
    """Not degraded: the source answered, but it predicts worse than the mean. It goes on being judged."""
    await desk.start(k_max=4, estimator="leave_one_out")

    async def batch(number: int, *, right: bool) -> None:
        names = [f"b{number}-{place}" for place in range(64)]
        truth = {name: float(place % 2) for place, name in enumerate(names)}
        desk.priors.table = {name: value if right else 1.0 - value for name, value in truth.items()}
        answer = await desk.open(*names)
        assert not answer.degraded
        await desk.observe(**{name: [truth[name]] * 4 for name in names})
        await desk.close(**dict.fromkeys(names, 4))

    for number in range(2):
        await batch(number, right=False)
    assert not (await desk.run()).reliability.prior_usable
    dropped = await desk.open("probe")
    assert (dropped.groups[0].prior, dropped.groups[0].prior_source) == (0.5, "running_mean")
    assert not dropped.degraded
    assert (await desk.record("probe")).predicted == 0.5
    for number in range(2, 8):
        await batch(number, right=True)
    desk.priors.table["again"] = 0.9
    restored = (await desk.open("again")).groups[0]
    assert (restored.prior, restored.prior_source) == (0.9, "prior_service")


@pytest.mark.parametrize("estimator", ["v05", "group_mean", "empirical_bayes"])
async def test_estimators_that_never_drop_a_prior_get_a_useless_one_too(desk: Desk, estimator: str) -> None:
    """The paper's rules have a test of their own, and `empirical_bayes` knows what such a V is worth, even reversed."""
    await desk.start(k_max=4, estimator=estimator, stopping="osla")
    names = [f"g{place}" for place in range(128)]
    truth = {name: float(place % 2) for place, name in enumerate(names)}
    desk.priors.table = {name: 1.0 - value for name, value in truth.items()} | {"probe": 0.9}
    await desk.open(*names)
    await desk.observe(**{name: [value] * 4 for name, value in truth.items()})
    await desk.close(**dict.fromkeys(names, 4))
    assert not (await desk.run()).reliability.prior_usable
    probe = (await desk.open("probe")).groups[0]
    assert (probe.prior, probe.prior_source) == (0.9, "prior_service")


async def test_v05_with_look_ahead_is_the_paper_after_the_prior_proved_useless(desk: Desk) -> None:
    """Fused value and the further rollout by hand, on the papers' scale, from the prior of the source."""
    await desk.start(outcome_range={"low": -1, "high": 1}, estimator="v05", stopping="osla", k_init=4, k_max=16)
    names = [f"g{place}" for place in range(128)]
    truth = {name: 2.0 * (place % 2) - 1.0 for place, name in enumerate(names)}
    desk.priors.table = {name: (1.0 - value) / 2.0 for name, value in truth.items()} | {"probe": 0.9}
    await desk.open(*names)
    await desk.observe(**{name: [value] * 4 for name, value in truth.items()})
    await desk.open("probe")
    (decision,) = await desk.observe(probe=[-1.0, -1.0, -1.0, 1.0])
    prior, mean, noise = 0.8, -0.5, 1 / 4
    bias = (mean - prior) ** 2 - noise
    weight = bias / (bias + noise)
    assert decision.baseline == pytest.approx(weight * mean + (1 - weight) * prior)
    worth = bias**2 / ((1 + 4 * bias) * (1 + 5 * bias))
    assert (decision.more > 0) == (worth > 1 / 16**2)
    assert decision.more


async def test_a_frozen_prior_does_not_move(desk: Desk) -> None:
    """What the source says later changes nothing for a group that is open."""
    await desk.start()
    desk.priors.table = {"g": 0.2}
    first = await desk.open("g")
    desk.priors.table = {"g": 0.9}
    assert await desk.open("g") == first
    assert (await desk.observe(g=[1.0]))[0].ingredients.prior == pytest.approx(0.2)


async def test_the_first_wave_follows_worth_under_a_cap(desk: Desk) -> None:
    """With `auto` and too few rollouts, the uncertain prompt is served before the certain ones."""
    await desk.start(k_init="auto", limits=RunLimits(rollouts=6))
    desk.priors.table = {"hopeless": 0.01, "even": 0.5, "easy": 0.99}
    grants = {group.group_id: group.grant for group in (await desk.open("hopeless", "even", "easy")).groups}
    assert sum(grants.values()) == 6
    assert grants["even"] > max(grants["hopeless"], grants["easy"])


async def test_an_older_step_is_served_before_a_newer_one(desk: Desk) -> None:
    """Each step has its own limit; what they share goes to the older first, wherever it stands in the batch."""
    await desk.start(limits=RunLimits(rollouts=9, rollouts_per_step=6))
    groups = [OpenGroup(group_id=f"s{step}", prompt_key="k", step=step) for step in (5, 4, 3)]
    answer = await desk.open(*groups)
    assert [group.grant for group in answer.groups] == [1, 4, 4]
    assert answer.groups[0].reason == "first_wave"


async def test_a_team_limit_holds_over_all_runs(desk: Desk) -> None:
    """Limits of the team apply although the run has none."""
    await desk.start()
    await desk.engine.set_team_limits(TEAM, TeamLimits(rollouts=5))
    answer = await desk.open("a", "b", "c")
    assert sum(group.grant for group in answer.groups) == 5


bodies = st.builds(
    OpenGroup,
    group_id=st.just("g"),
    attempt=st.just(0),
    prompt_key=st.sampled_from(["k", "l"]),
    prompt=st.none() | st.sampled_from(["text", "other"]),
    prior=st.none()
    | st.builds(SuppliedPrior, value=st.sampled_from([0.0, 0.5]), standard_error=st.none() | st.just(0.1)),
    policy=st.none() | st.sampled_from(["p", "q"]),
    policy_version=st.integers(0, 1),
    step=st.none() | st.integers(0, 1),
)


@given(first=bodies, second=bodies)
@settings(max_examples=150, deadline=None)
def test_g04_same_id_same_body_or_conflict(first: OpenGroup, second: OpenGroup) -> None:
    """For any two bodies under one id: equal ones get one answer, others are refused without effect."""
    desk = Desk()
    run_now(desk.start())
    answer = run_now(desk.open(first))
    before = run_now(desk.record("g"))
    if first == second:
        assert run_now(desk.open(second)) == answer
    else:
        with pytest.raises(Conflict):
            run_now(desk.open("new", second))
    assert run_now(desk.record("g")) == before
    assert run_now(desk.engine.budget(TEAM)).usage.granted == answer.groups[0].grant


@pytest.mark.parametrize("value", [-0.1, 1.1])
async def test_a_prior_outside_the_range_is_named(desk: Desk, value: float) -> None:
    """The message says which number it was."""
    await desk.start()
    with pytest.raises(InvalidInput, match=str(value)):
        await desk.open(OpenGroup(group_id="g", prompt_key="k", prior=SuppliedPrior(value=value)))
