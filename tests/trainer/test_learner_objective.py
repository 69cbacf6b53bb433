"""What a step minimises, by hand and through the learner: weights, scales, importance, the pull of a reference."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.plain import plain_loss, row_logprobs
from tests.trainer.tiny import TIMEOUT_S, make_policy, make_rows
from trainer.config import Config, LearnerSection, parse
from trainer.errors import ConfigError
from trainer.learner.batch import Row, loss_total, microbatches, minibatches, rows, staleness
from trainer.learner.fsdp import World, world
from trainer.learner.learner import Learner
from trainer.learner.loss import STATISTICS, Clip, Objective, divergence, loss_sums
from trainer.policy import load_model
from trainer.types import Problem, RolloutGroup, Sample


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


def _learner(policy: Path, where: World, **changes: Any) -> Learner:
    return Learner(policy, LearnerSection.model_validate({"device": "cpu", "lr": 1e-2, **changes}), where, seed=5)


def _weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.full_tensor().clone() for name, value in learner.model.state_dict().items()}


def _group(outcomes: tuple[float, ...], advantages: tuple[float, ...], *, weight: float = 1.0) -> RolloutGroup:
    samples = tuple(Sample((5, 6), (-1.0, -1.0), "", "stop", 3) for _ in outcomes)
    return RolloutGroup(
        group_id="g",
        problem=Problem("p", "?", "1"),
        prompt_ids=(7,),
        samples=samples,
        outcomes=outcomes,
        advantages=advantages,
        baseline=0.5,
        prior=0.5,
        first_wave=2,
        version=3,
        importance_weight=weight,
    )


def test_advantages_are_scaled_as_asked() -> None:
    """By nothing, by the spread of the group's outcomes, or by that of the step's advantages; equal outcomes stay 0."""
    mixed, flat = _group((1.0, 0.0, 0.0, 1.0), (0.5, -0.5, -0.5, 0.5)), _group((1.0, 1.0), (0.2, 0.2))
    assert [row.advantage for row in rows([mixed, flat])] == [0.5, -0.5, -0.5, 0.5, 0.2, 0.2]
    by_group = [row.advantage for row in rows([mixed, flat], advantage_scale="group_std")]
    assert by_group == pytest.approx([1, -1, -1, 1, 0, 0], abs=1e-5)
    values = torch.tensor([0.5, -0.5, -0.5, 0.5, 0.2, 0.2])
    by_batch = [row.advantage for row in rows([mixed, flat], advantage_scale="batch_std")]
    assert by_batch == pytest.approx((values / values.std(correction=0)).tolist(), rel=1e-4)
    assert [row.advantage for row in rows([flat], advantage_scale="batch_std")] == [0.2, 0.2]


def test_a_groups_weight_and_versions_reach_its_rows() -> None:
    """Each completion's loss is multiplied by its group's importance weight; each token knows its age."""
    found = rows([_group((1.0, 0.0), (0.5, -0.5), weight=2.5), _group((1.0,), (0.5,))])
    assert [row.weight for row in found] == [2.5, 2.5, 1.0]
    assert staleness(found, 5) == (2.0, 2)
    assert staleness([replace(found[0], versions=(2, 5)), found[1]], 5) == (1.75, 3)
    assert staleness(found, None) == staleness(make_rows(2), 5) == (0.0, 0)
    (part,) = microbatches(found, token_budget=99, rank=0, ranks=1)
    assert part.weights.tolist() == [[2.5, 2.5], [2.5, 2.5], [1.0, 1.0]]
    (part,) = microbatches(found, token_budget=99, rank=0, ranks=1, averaging="sequence_mean")
    assert part.weights.tolist() == [[1.25, 1.25], [1.25, 1.25], [0.5, 0.5]]
    assert (loss_total(found, "token_mean"), loss_total(found, "sequence_mean")) == (6, 3)


@pytest.mark.parametrize("estimator", ["empirical_bayes", "v05", "james_stein", "ebpo", "beta_history"])
def test_a_groups_spread_is_refused_with_a_baseline_from_outside(estimator: str) -> None:
    """Near-equal outcomes would multiply such an advantage without bound."""
    settings = {"learner": {"advantage_scale": "group_std"}, "allocator": {"estimator": estimator}}
    with pytest.raises(ConfigError, match=r'advantage_scale = "group_std" .* "batch_std" or "none"'):
        parse(settings)
    assert parse({**settings, "allocator": {"estimator": "group_mean"}}).learner.advantage_scale == "group_std"
    assert Config().learner.advantage_scale == "none"


def test_truncated_importance_by_hand() -> None:
    """One token far likelier at the step's start than when sampled, one less likely: weights 1.5 (cut) and 0.5."""
    row = Row((0,), (1, 0), (math.log(0.2), math.log(0.4)), 1.0, anchors=(math.log(0.6), math.log(0.2)))
    (part,) = microbatches([row], token_budget=9, rank=0, ranks=1)
    logits = torch.log(torch.tensor([[[0.34, 0.66], [0.3, 0.7]]])).requires_grad_()
    sums = loss_sums(logits, part, Objective(Clip(0.2, 0.28), importance_cap=1.5))
    named = dict(zip(STATISTICS, sums.statistics.tolist(), strict=True))
    assert named["loss"] == pytest.approx(-1.5 * 1.1 - 0.5 * 1.28)
    assert named["importance"] == pytest.approx(2.0)
    assert (named["truncated"], named["clipped"]) == (1.0, 1.0)
    assert named["ratio"] == pytest.approx(1.1 + 1.5)
    assert float(sums.largest_mismatch) == pytest.approx(math.log(0.66 / 0.2))
    (gradient,) = torch.autograd.grad(sums.loss, logits)
    slope = torch.tensor([0.34, 0.66]) - torch.tensor([0.0, 1.0])
    torch.testing.assert_close(gradient[0], torch.stack([1.5 * 1.1 * slope, torch.zeros(2)]))


def test_the_divergence_from_a_reference_by_hand() -> None:
    """Schulman's k3, q / p - 1 - log(q / p): 0 where they agree, and pulling towards the reference by 1 - q / p elsewhere."""
    logprobs = torch.log(torch.tensor([0.5, 0.25, 0.8])).requires_grad_()
    value = divergence(logprobs, torch.log(torch.tensor([0.5, 0.5, 0.2])))
    (gradient,) = torch.autograd.grad(value.sum(), logprobs)
    torch.testing.assert_close(value.detach(), torch.tensor([0.0, 1 - math.log(2), 0.25 - 1 - math.log(0.25)]))
    torch.testing.assert_close(gradient, torch.tensor([0.0, -1.0, 0.75]))


def test_several_updates_keep_to_the_policy_at_the_steps_start(policy: Path) -> None:
    """With two epochs of two minibatches, anchors are scored once: all four updates are a plain loop's with the same."""
    batch = make_rows(8, seed=6)
    settings = {"importance": "truncated", "importance_cap": 1.2, "epochs": 2, "minibatches": 2}
    model = load_model(policy)
    with torch.no_grad():
        anchors = {row: row_logprobs(model, row) for row in batch}
    shuffle, norms = torch.Generator().manual_seed(5), []
    for _ in range(2):
        for chosen in minibatches(batch, 2, shuffle):
            model.zero_grad()
            loss = plain_loss(model, chosen, cap=1.2, anchors=[anchors[row] for row in chosen])
            loss.backward()  # type: ignore[no-untyped-call] # torch's own stub
            norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1e6)))
            with torch.no_grad():
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(parameter.grad, alpha=0.1)
    weighed = torch.cat([torch.exp(anchors[row] - torch.tensor(row.logprobs)) for row in batch])
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where, optimizer="sgd", lr=0.1, grad_clip=1e6, **settings)
        done = learner.step(batch)
        learned = _weights(learner)
    assert done.updates == 4
    assert done.grad_norm == pytest.approx(sum(norms) / 4, rel=1e-4)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(learned[name], value, atol=2e-6, rtol=0)
    # Minibatches have unequal numbers of tokens, over which means are taken: hence not to rounding.
    assert done.importance == pytest.approx(float(weighed.clamp(max=1.2).mean()), rel=0.05)
    assert done.truncated == pytest.approx(float((weighed > 1.2).float().mean()), abs=0.05)


def test_fresh_rollouts_weigh_one_and_stale_ones_are_told(policy: Path) -> None:
    """On-policy, importance changes nothing; the age of tokens comes from versions."""
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where, importance="truncated")
        drawn = make_rows(6, seed=3)
        fresh = [
            replace(row, logprobs=own, versions=(4,) * len(own))
            for row, own in zip(drawn, learner.logprobs(drawn), strict=True)
        ]
        done = learner.step(fresh, version=6)
    assert done.importance == pytest.approx(1.0, abs=1e-5)
    assert (done.truncated, done.mean_staleness, done.max_staleness) == (0.0, 2.0, 2)


def test_a_reference_is_the_first_policy_for_ever(policy: Path, tmp_path: Path) -> None:
    """Its divergence is 0 at first, grows with learning as a plain loop has it, and is the same after a resume."""
    first = load_model(policy)
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where, kl=0.01)
        assert learner.step(make_rows(6, seed=1)).kl_reference == pytest.approx(0.0, abs=1e-6)
        now = copy.deepcopy(first)
        now.load_state_dict(_weights(learner))
        batch = make_rows(6, seed=2)
        with torch.no_grad():
            drift = [divergence(row_logprobs(now, row), row_logprobs(first, row)) for row in batch]
        saved = learner.save(tmp_path, 1, {}, 1)
        found = learner.step(batch).kl_reference
        resumed = _learner(policy, where, kl=0.01)
        resumed.load(saved)
        assert resumed.step(batch).kl_reference == found
        assert found == pytest.approx(float(torch.cat(drift).mean()), rel=1e-3)
        assert found is not None
        assert found > 1e-3
        flat = [replace(row, advantage=0.0) for row in batch]
        assert learner.step(flat).updates == 1, "the reference pulls where advantages do not"


def test_the_learning_rate_warms_up_and_a_resume_goes_on_warming(policy: Path, tmp_path: Path) -> None:
    """A quarter, a half, ... of the rate; with plain SGD a step's length says which."""

    def moved(learner: Learner) -> float:
        before = _weights(learner)
        norm = learner.step(make_rows(5, seed=1)).grad_norm
        after = _weights(learner)
        return math.sqrt(sum(float((after[name] - before[name]).square().sum()) for name in before)) / norm

    settings: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "grad_clip": 1e6, "lr_warmup_steps": 4}
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where, **settings)
        assert [moved(learner) for _ in range(2)] == pytest.approx([0.025, 0.05], rel=1e-2)
        saved = learner.save(tmp_path, 2, {}, 1)
        resumed = _learner(policy, where, **settings)
        resumed.load(saved)
        assert [moved(resumed) for _ in range(3)] == pytest.approx([0.075, 0.1, 0.1], rel=1e-2)
