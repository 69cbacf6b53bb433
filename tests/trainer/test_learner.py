"""The learner: layout, loss against hand computation, equal results however rows are cut, broken rows, exports."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from tests.trainer.tiny import TIMEOUT_S, learn_alone, learn_on_ranks, make_policy, make_rows
from trainer.config import LearnerSection
from trainer.learner.batch import Row, action_tokens, microbatches, minibatches, rows
from trainer.learner.fsdp import World, world
from trainer.learner.learner import Learner
from trainer.learner.loss import STATISTICS, Clip, Objective, clipped_policy_gradient, loss_sums, token_logprobs
from trainer.policy import load_model, load_tokenizer
from trainer.types import Problem, RolloutGroup, Sample


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


def _learner(policy: Path, where: World, **changes: Any) -> Learner:
    torch.manual_seed(0)
    return Learner(policy, LearnerSection.model_validate({"device": "cpu", "lr": 1e-2, **changes}), where, seed=5)


def _weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.full_tensor().clone() for name, value in learner.model.state_dict().items()}


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 30), ranks=st.integers(1, 4), budget=st.integers(1, 90), seed=st.integers(0, 99))
def test_microbatches_hold_every_action_token_once(count: int, ranks: int, budget: int, seed: int) -> None:
    """Whatever the cut: equal numbers per rank, budgets kept, each sampled token weighted once over all ranks."""
    batch = make_rows(count, seed=seed)
    shares = [microbatches(batch, token_budget=budget, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    parts = [part for share in shares for part in share]
    assert sum(int(part.actions.sum()) for part in parts) == action_tokens(batch)
    assert all(part.input_ids.numel() <= budget or len(part.input_ids) == 1 for part in parts)
    expected = sum(sum(row.logprobs) * row.advantage for row in batch)
    found = sum(float((part.old_logprobs * part.actions * part.advantages).sum()) for part in parts)
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_padded_row_keeps_tokens_and_weights_in_place() -> None:
    """Position t predicts token t + 1, so weights start one before the first sampled token."""
    short, long = Row((7, 8), (9,), (-1.0,), 0.5), Row((7, 8, 9), (10, 11), (-2.0, -3.0), -0.5)
    (part,) = microbatches([short, long], token_budget=100, rank=0, ranks=1)
    assert part.input_ids.tolist() == [[7, 8, 9, 10, 11], [7, 8, 9, 0, 0]]
    assert part.actions.tolist() == [[0, 0, 1, 1], [0, 1, 0, 0]]
    assert part.old_logprobs.tolist() == [[0, 0, -2, -3], [0, -1, 0, 0]]
    assert part.first == 1


def test_samples_that_may_carry_no_advantage_are_no_rows() -> None:
    """Trained on first waves alone, a group's later samples do not count among the tokens that its loss is divided by."""
    sample = Sample((5, 6), (-1.0, -1.0), "", "stop", 0)
    group = RolloutGroup(
        group_id="g",
        problem=Problem("p", "?", "1"),
        prompt_ids=(7,),
        samples=(sample, replace(sample, token_ids=(), logprobs=()), sample, sample),
        outcomes=(1.0, 0.0, 1.0, 1.0),
        advantages=(0.0, -0.5, 0.5, 0.0),
        baseline=0.5,
        prior=0.5,
        first_wave=3,
        version=0,
    )
    assert [row.advantage for row in rows([group])] == [0.0, 0.5, 0.0]
    assert [row.advantage for row in rows([group], first_wave_only=True)] == [0.0, 0.5]
    assert action_tokens(rows([group], first_wave_only=True)) == 4


def test_minibatches_deal_every_row_once() -> None:
    """Shuffled, equal in size to within one row, none empty even where there are fewer rows than minibatches."""
    batch = make_rows(11)
    dealt = minibatches(batch, 3, torch.Generator().manual_seed(1))
    assert sorted(map(len, dealt)) == [3, 4, 4]
    assert sorted((row for part in dealt for row in part), key=repr) == sorted(batch, key=repr)
    assert len(minibatches(batch[:2], 3, torch.Generator())) == 2


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.56, 0.0),
        (0.5, 2.0, -1.0, -1.0),
        (1.5, -2.0, 3.0, 3.0),
        (0.5, -2.0, 1.6, 0.0),
    ],
)
def test_the_clipped_loss_by_hand(ratio: float, advantage: float, loss: float, slope: float) -> None:
    """Clip 0.2 below and 0.28 above: value and derivative with respect to log p, in each of the six regions."""
    logprob = torch.tensor([math.log(ratio)], requires_grad=True)
    value = clipped_policy_gradient(logprob, torch.zeros(1), torch.tensor([advantage]), Clip(0.2, 0.28))
    (gradient,) = torch.autograd.grad(value.sum(), logprob)
    assert float(value.detach()) == pytest.approx(loss)
    assert float(gradient) == pytest.approx(slope)


def test_statistics_by_hand() -> None:
    """Two sampled tokens over a vocabulary of two: every statistic as worked out on paper."""
    row = Row((0,), (1, 0), (math.log(0.5), math.log(0.25)), 1.0)
    (part,) = microbatches([row], token_budget=9, rank=0, ranks=1)
    logits = torch.log(torch.tensor([[[0.25, 0.75], [0.2, 0.8]]]))
    sums = loss_sums(logits, part, Objective(Clip(0.2, 0.28), entropy=True))
    named = dict(zip(STATISTICS, sums.statistics.tolist(), strict=True))
    first, second = 0.75 / 0.5, 0.2 / 0.25
    entropy = sum(-p * math.log(p) for p in (0.25, 0.75, 0.2, 0.8))
    assert named["loss"] == pytest.approx(-1.28 - second)
    assert named["ratio"] == pytest.approx(first + second)
    assert named["clipped"] == 1.0
    assert named["kl"] == pytest.approx(first - 1 - math.log(first) + second - 1 - math.log(second))
    assert named["mismatch"] == pytest.approx(math.log(1.5) - math.log(0.8))
    assert named["entropy"] == pytest.approx(entropy)
    assert float(sums.largest_mismatch) == pytest.approx(math.log(1.5))


def test_padding_neither_adds_nor_hides(policy: Path) -> None:
    """Log-probabilities of a row do not depend on the rows it is padded with."""
    model = load_model(policy)
    batch = make_rows(6, seed=2)
    (together,) = microbatches(batch, token_budget=10_000, rank=0, ranks=1)
    logits = model(input_ids=together.input_ids[:, :-1]).logits
    padded = token_logprobs(logits, together.input_ids[:, 1:])[together.actions > 0]
    alone = []
    for row in sorted(batch, key=len, reverse=True):
        ids = torch.tensor([row.prompt_ids + row.token_ids])
        alone.append(token_logprobs(model(input_ids=ids[:, :-1]).logits, ids[:, 1:])[0, len(row.prompt_ids) - 1 :])
    torch.testing.assert_close(padded, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_a_step_is_the_same_however_rows_are_cut(policy: Path, tmp_path: Path) -> None:
    """Accumulating many small microbatches gives what one large gives, to rounding."""
    large = learn_alone(policy, 11, {"lr": 1e-3, "microbatch_tokens": 10_000}, tmp_path / "large")
    small = learn_alone(policy, 11, {"lr": 1e-3, "microbatch_tokens": 20}, tmp_path / "small")
    _same_result(small, large)


def test_one_update_equals_plain_autograd(policy: Path) -> None:
    """The sharded, accumulated, clipped update is AdamW on the gradient of the mean token loss, written plainly."""
    batch = make_rows(9, seed=4)
    model = load_model(policy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    total = torch.zeros(())
    for row in batch:
        ids = torch.tensor([row.prompt_ids + row.token_ids])
        logprobs = torch.log_softmax(model(input_ids=ids[:, :-1]).logits, -1).gather(-1, ids[:, 1:, None])[0, :, 0]
        new, old = logprobs[len(row.prompt_ids) - 1 :], torch.tensor(row.logprobs)
        ratio = torch.exp(new - old)
        total = total - torch.minimum(ratio * row.advantage, ratio.clamp(0.8, 1.28) * row.advantage).sum()
    (total / action_tokens(batch)).backward()  # type: ignore[no-untyped-call] # torch's own stub
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where, microbatch_tokens=25)
        done = learner.step(batch)
        learned = {name: value.full_tensor() for name, value in learner.model.state_dict().items()}
    assert done.grad_norm == pytest.approx(float(norm), rel=1e-5)
    assert done.loss == pytest.approx(float(total.detach()) / action_tokens(batch), rel=1e-5)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(learned[name], value, atol=2e-5, rtol=1e-4, msg=name)


def test_ranks_learn_what_one_process_learns(policy: Path, tmp_path: Path) -> None:
    """Three ranks: ragged rows, several microbatches, a rank with fewer rows than another: same statistics, same weights."""
    changes = {"lr": 1e-3, "microbatch_tokens": 40, "epochs": 2, "minibatches": 2}
    alone = learn_alone(policy, 7, changes, tmp_path / "alone")
    together = learn_on_ranks(3, policy, 7, changes, tmp_path / "together")
    _same_result(together, alone)


def test_more_ranks_than_rows_and_tied_weights_and_recomputation(tmp_path: Path) -> None:
    """A rank without any row takes part; a head tied to its embedding and checkpointed activations change nothing."""
    tied = make_policy(tmp_path / "tied", tied=True)
    alone = learn_alone(tied, 1, {"lr": 1e-3}, tmp_path / "alone")
    together = learn_on_ranks(2, tied, 1, {"lr": 1e-3, "activation_checkpointing": True}, tmp_path / "together")
    _same_result(together, alone)


def test_bfloat16_learns_about_the_same(policy: Path, tmp_path: Path) -> None:
    """Low precision in the passes, float32 weights and optimiser: close to the float32 result, not equal to it."""
    full = learn_alone(policy, 9, {"lr": 1e-3}, tmp_path / "full")
    low = learn_alone(policy, 9, {"lr": 1e-3, "dtype": "bfloat16"}, tmp_path / "low")
    first, second = (json.loads((path / "statistics.json").read_text()) for path in (full, low))
    assert second[0][0] == pytest.approx(first[0][0], abs=0.02)
    weights = [load_file(path / "model.safetensors")["lm_head.weight"] for path in (full, low)]
    assert float((weights[1] - weights[0]).abs().max()) < 3 * 2e-3 * 1.01, "three updates of AdamW, each of 1e-3 a way"
    assert not torch.equal(*weights)
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where, dtype="bfloat16")
        seen: list[torch.dtype] = []
        learner.model.model.layers[0].mlp.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
        learner.step(make_rows(4))
        (optimizer,) = learner.optimizers
        state = {value.dtype for held in optimizer.state.values() for value in held.values()}
    assert seen == [torch.bfloat16]
    assert state == {torch.float32} == {value.dtype for value in learner.model.parameters()}


def test_nothing_is_learned_from_equal_outcomes(policy: Path) -> None:
    """All-zero advantages take no step, and are none that was left out."""
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where)
        before = _weights(learner)
        done = learner.step([replace(row, advantage=0.0) for row in make_rows(4)])
        assert (done.updates, done.skipped) == (0, 0)
        assert all(torch.equal(before[name], value) for name, value in _weights(learner).items())


@pytest.mark.parametrize(
    "broken",
    [
        Row((5,), (6,), (math.nan,), 1.0),
        Row((5,), (6,), (-math.inf,), 1.0),
        Row((5,), (6,), (math.inf,), -1.0),
        Row((5,), (6,), (-1.0,), math.nan),
        Row((5,), (6,), (-1.0,), math.inf),
    ],
)
@pytest.mark.parametrize("importance", ["none", "truncated"])
def test_an_update_that_is_not_finite_is_left_out(policy: Path, tmp_path: Path, broken: Row, importance: str) -> None:
    """One of two minibatches holds a broken row: the other is learned, weights and optimiser state stay finite.

    A checkpoint after a first update that was left out, when the optimiser has no state yet, can be restored.
    """
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where, minibatches=2, importance=importance)
        before = _weights(learner)
        alone = learner.step([broken])
        assert (alone.updates, alone.skipped) == (0, 1)
        assert all(torch.equal(before[name], value) for name, value in _weights(learner).items())
        saved = learner.save(tmp_path, 1, {}, 1)
        rows_ = [*make_rows(5), broken]
        done = learner.step(rows_)
        assert (done.updates, done.skipped) == (1, 1)
        assert math.isfinite(done.loss)
        assert all(value.isfinite().all() for value in _weights(learner).values())
        resumed = _learner(policy, where, minibatches=2, importance=importance)
        resumed.load(saved)
        resumed.step(rows_)
        assert all(torch.equal(value, _weights(learner)[name]) for name, value in _weights(resumed).items())


def test_a_step_says_what_it_cost(policy: Path) -> None:
    """Tokens per second count prompts and epochs; memory is the process's peak."""
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where, epochs=2)
        began = time.perf_counter()
        done = learner.step(make_rows(6))
        seconds = time.perf_counter() - began
    assert done.tokens_per_second >= 2 * sum(map(len, make_rows(6))) / seconds
    assert psutil.Process().memory_info().rss <= done.peak_memory_bytes * 1.01
    assert done.peak_memory_bytes < psutil.virtual_memory().total


def test_a_positive_advantage_makes_its_completion_likelier(policy: Path) -> None:
    """On-policy rows: after a step, rewarded completions have gained probability and punished ones have lost it."""
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where, lr=1e-3)
        good, bad = (Row(row.prompt_ids, row.token_ids, row.logprobs, 0.0) for row in make_rows(2, seed=9))
        before = learner.logprobs([good, bad])
        done = learner.step(
            [Row(good.prompt_ids, good.token_ids, before[0], 1.0), Row(bad.prompt_ids, bad.token_ids, before[1], -1.0)]
        )
        after = learner.logprobs([good, bad])
    assert done.largest_mismatch < 1e-5
    assert sum(after[0]) > sum(before[0])
    assert sum(after[1]) < sum(before[1])


def test_an_export_is_the_model(policy: Path, tmp_path: Path) -> None:
    """What servers load has the weights, the tokenizer, the mark, and the learner's log-probabilities."""
    batch = make_rows(2, seed=1)
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where)
        learner.step(make_rows(6))
        directory = learner.export(tmp_path, 1, "float32")
        expected = learner.logprobs(batch)
    assert (directory / "STABLE").is_file()
    assert load_tokenizer(directory).decode([20, 21]) == load_tokenizer(policy).decode([20, 21])
    model = load_model(directory)
    for row, logprobs in zip(batch, expected, strict=True):
        ids = torch.tensor([row.prompt_ids + row.token_ids])
        found = token_logprobs(model(input_ids=ids[:, :-1]).logits, ids[:, 1:])[0, len(row.prompt_ids) - 1 :]
        torch.testing.assert_close(found, torch.tensor(logprobs), atol=1e-6, rtol=1e-5)


def _same_result(found: Path, expected: Path) -> None:
    """Statistics to 1e-4 relative and weights to a tenth of what one step moves them by."""
    for mine, theirs in zip(
        *(json.loads((path / "statistics.json").read_text()) for path in (found, expected)), strict=True
    ):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    weights, reference = load_file(found / "model.safetensors"), load_file(expected / "model.safetensors")
    assert weights.keys() == reference.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, reference[name], atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("recompute", [False, True])
def test_dropout_is_off_while_learning(tmp_path: Path, *, recompute: bool) -> None:
    """A model that was made with dropout scores the same tokens the same, in steps too, also where it recomputes."""
    tokenizer = load_tokenizer(make_policy(tmp_path))
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), **sizes, attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5)
    ).save_pretrained(tmp_path)
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(tmp_path, where, activation_checkpointing=recompute)
        drawn = make_rows(6)
        scored = [replace(row, logprobs=own) for row, own in zip(drawn, learner.logprobs(drawn), strict=True)]
        assert learner.step(scored).largest_mismatch < 1e-5


@pytest.mark.parametrize("recompute", [False, True])
def test_activations_are_recomputed_only_when_asked(policy: Path, *, recompute: bool) -> None:
    """Decoder layers run once per step, or twice where they keep nothing."""
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where, activation_checkpointing=recompute)
        runs: list[None] = []
        learner.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(None))
        learner.step(make_rows(4))
        assert len(runs) == 1 + recompute
