"""Our hooks at slime's call sites, on real services."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import pytest

import rollout_budget as rb
from rollout_budget.errors import InvalidInput
from rollout_budget.integrations.slime.books import books_of, leave
from tests.integrations.conftest import Service, Services
from tests.integrations.slime.stand_in import PATH, Rollouts, Sample, Status, arguments, installed, load
from tests.integrations.trl.running import seen_by

pytestmark = [pytest.mark.services]

PROMPTS = [f"prompt {number}" for number in range(8)]
CHANCES = {prompt: place / 7 for place, prompt in enumerate(PROMPTS)}
GENERATE = {"custom_generate_function_path": PATH + "generate", "n_samples_per_prompt": 1}


def chance(sample: Sample) -> float:
    return CHANCES[str(sample.prompt)]


@pytest.fixture(autouse=True)
def _left() -> Iterator[None]:
    """Books are of a process; each test has its own."""
    yield
    leave()


def declared(service: Service, run: str, **rules: Any) -> dict[str, Any]:
    return {"run": run, "policy": run, **service.rules, **rules}


def usage(service: Service, run: str) -> tuple[int, int]:
    leave()  # tells the service what it has not heard
    with rb.SyncAllocatorClient(service.url, service.key) as client:
        found = client.get_run(run).usage
    return found.committed, found.reserved


def test_groups_of_slime_get_our_advantages_and_the_ledger_counts_all_that_was_drawn(service: Service) -> None:
    """Also the groups that its dynamic sampling drops. Outcomes, advantages and ids are those of the allocator."""

    def mixed(group: list[Sample]) -> bool:
        return len({sample.reward for sample in group}) > 1 or group[0].group_index == 0

    with installed(chance):
        rollouts = Rollouts(arguments(rollout_budget=declared(service, "slime-fixed")), PROMPTS, mixed)
        steps = [rollouts.step(number) for number in range(3)]
    drawn = sum(step.drawn for step in steps)
    assert usage(service, "slime-fixed") == (drawn, 0)
    assert drawn == 3 * 4 * 4 > sum(len(step.samples) for step in steps)
    seen = seen_by(service, "slime-fixed")
    for step in steps:
        assert step.log["budget/used"] == step.drawn
        by_group: dict[int, list[tuple[float, float]]] = {}
        for sample, raw, reward in zip(step.samples, step.raw, step.rewards, strict=True):
            by_group.setdefault(int(sample.group_index or 0), []).append((raw, reward))
        for number, pairs in by_group.items():
            record = seen[f"g{number}"]
            assert record["outcomes"] == [raw for raw, _ in pairs]
            assert record["decision"]["advantages"] == pytest.approx([gain for _, gain in pairs])
    assert steps[0].rewards[0] != 0.0  # g0 is all wrong, and teaches by how far the prior was off


def test_a_group_grows_in_waves_inside_slimes_own_loop(service: Service) -> None:
    """Sizes are the allocator's and differ; slime sees one rollout per prompt; each sample is paid for once."""
    rules = {"k_init": 2, "k_max": 12, "stopping": "osla"}
    args = arguments(rollout_budget=declared(service, "slime-waves", **rules), **GENERATE)
    with installed(chance):
        rollouts = Rollouts(args, PROMPTS)
        steps = [rollouts.step(number) for number in range(4)]
    samples = [sample for step in steps for sample in step.samples]
    assert usage(service, "slime-waves") == (len(samples), 0)
    sizes = {number: sum(one.group_index == number for one in samples) for number in range(16)}
    assert len(set(sizes.values())) > 1
    assert max(sizes.values()) > 2
    assert len({sample.rollout_id for sample in samples}) == 16
    seen = seen_by(service, "slime-waves")
    gains = [gain for step in steps for gain in step.rewards]
    told = [gain for number in range(16) for gain in seen[f"g{number}"]["decision"]["advantages"]]
    assert gains == pytest.approx(told)
    assert sum(step.log["budget/extra"] for step in steps) > 0


def test_without_budget_each_prompt_comes_back_as_one_masked_token(service: Service) -> None:
    """A cap raises nothing: slime gets as many prompts as it asked for, and none of them teaches."""
    rules = {"k_init": 4, "limits": {"rollouts": 10}}
    args = arguments(rollout_budget=declared(service, "slime-cap", **rules), **GENERATE)
    with installed(chance):
        rollouts = Rollouts(args, PROMPTS)
        steps = [rollouts.step(number) for number in range(2)]
    blanks = [sample for sample in steps[1].samples if sample.remove_sample]
    assert len(blanks) == 4 == len(steps[1].samples)
    assert {tuple(sample.loss_mask or ()) for sample in blanks} == {(0,)}
    assert steps[1].rewards == [0.0] * 4
    assert steps[1].log["budget/refused_groups"] == 4
    assert usage(service, "slime-cap") == (10, 0)


def test_rollouts_that_slime_aborts_are_paid_for_and_teach_nothing(service: Service) -> None:
    def failing(sample: Sample) -> bool:
        return int(sample.group_index or 0) % 2 == 1

    args = arguments(rollout_budget=declared(service, "slime-aborted", k_init=3), **GENERATE)
    with installed(chance, failing):
        step = Rollouts(args, PROMPTS).step(0)
    lost = [sample for sample in step.samples if sample.status is Status.ABORTED]
    assert len(lost) == 6
    gains = [gain for sample, gain in zip(step.samples, step.rewards, strict=True) if sample in lost]
    assert set(gains) == {0.0}
    assert usage(service, "slime-aborted") == (len(step.samples), 0)


def test_an_allocator_that_dies_costs_no_step(services: Services) -> None:
    """Baselines come from the same rules in slime's process; the log says how often."""
    service = services.start()
    args = arguments(rollout_budget=declared(service, "slime-dead", k_init=4, k_max=4), **GENERATE)
    with installed(chance):
        rollouts = Rollouts(args, PROMPTS)
        first = rollouts.step(0)
        service.kill()
        second = rollouts.step(1)
    assert first.log["budget/fallback_total"] == 0 < second.log["budget/fallback_total"]
    for step in (first, second):
        assert len(step.samples) >= 4
        assert any(step.rewards)


async def half(args: Any, sample: Sample) -> float:
    """A user's reward function, for one sample."""
    assert args.custom_rm_path
    return 0.5 * (sample.response == "yes")


def test_a_reward_function_for_one_sample_serves_groups_too(service: Service) -> None:
    """Slime would call it with a list, and for a group whose rewards are there with an empty one."""
    settings = declared(service, "slime-reward", k_init=3, outcome_above=0.25, reward=f"{__name__}.half")
    args = arguments(rollout_budget=settings, custom_rm_path=PATH + "reward", **GENERATE)
    with installed(lambda _: 0.5):
        step = Rollouts(args, PROMPTS).step(0)
    assert set(step.raw) == {0.0, 0.5}
    leave()
    told = seen_by(service, "slime-reward").values()
    assert {outcome for group in told for outcome in group["outcomes"]} == {0.0, 1.0}
    assert asyncio.run(load(PATH + "reward")(args, [])) == []
    with pytest.raises(InvalidInput, match="reward function"):
        asyncio.run(load(PATH + "reward")(arguments(), []))


def test_evaluation_is_slimes_own(service: Service) -> None:
    args = arguments(rollout_budget=declared(service, "slime-eval"), **GENERATE)
    with installed(chance):
        sample = Sample(group_index=0, index=0, prompt=PROMPTS[-1])
        drawn = asyncio.run(load(PATH + "generate")(args, sample, {"max_new_tokens": 8}, evaluation=True))
    assert drawn is sample
    assert drawn.response == "yes"


def test_outcome_apart_from_reward_and_one_outcome_for_a_rollout_in_parts() -> None:
    """The loss uses the reward; the outcome is a value beside it. Parts of one rollout count once."""
    rules = {"run": "parts", "policy": "m", "outcome": "solved", "prompt_key": "id"}
    args = arguments(rollout_budget=rules, reward_key="score", n_samples_per_prompt=3)
    solved = [True, False, True]
    samples = [
        Sample(
            group_index=5,
            index=number,
            prompt="p",
            rollout_id=number,
            reward={"score": 0.25 + good, "solved": good},
            metadata={"id": "seven"},
        )
        for number, good in enumerate(solved)
        for _ in range(2)
    ]
    raw, gains = load(PATH + "post_process_rewards")(args, samples)
    assert raw == [1.25, 1.25, 0.25, 0.25, 1.25, 1.25]
    assert gains[::2] == gains[1::2]
    assert fmean(gains[0::4]) > 0 > gains[2]
    assert books_of(args).session.metrics()["budget/used"] == 3
    assert books_of(args).prompt(samples[0]).key == "seven"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "name no run"),
        ({"rollout_budget": {"run": "r", "outcome": "a", "outcome_above": 0}}, "not both"),
        ({"rollout_budget": {"run": "r", "estimator": "guess"}}, "estimator"),
        ({"rollout_budget": {"run": "r"}, "n_samples_per_prompt": 4}, "n-samples-per-prompt 1"),
        ({"rollout_budget": {"run": "r"}, "n_samples_per_prompt": 1, "partial_rollout": True}, "partial-rollout"),
    ],
)
def test_faults_of_the_settings_say_what_to_change(given: dict[str, Any], message: str) -> None:
    args = Namespace(**{**vars(arguments()), **given})
    with installed(chance), pytest.raises(InvalidInput, match=message):
        call_both(args)


def call_both(args: Namespace) -> None:
    sample = Sample(group_index=0, index=0, prompt=PROMPTS[0], reward=1.0)
    load(PATH + "post_process_rewards")(args, [sample])
    asyncio.run(load(PATH + "generate")(args, sample, {"max_new_tokens": 8}))


def test_an_outcome_outside_the_declared_range_ends_the_training() -> None:
    args = arguments(rollout_budget={"run": "range", "policy": "m"})
    with pytest.raises(InvalidInput, match="outcome"):
        load(PATH + "post_process_rewards")(args, [Sample(group_index=0, index=0, prompt="p", reward=2.0)])
