"""Adapters: alone trained, exported as servers load them, equal to the model that they are merged into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import get_state_dict

from tests.trainer.plain import row_logprobs
from tests.trainer.tiny import TIMEOUT_S, make_policy, make_rows, on_ranks
from trainer.config import LearnerSection
from trainer.errors import ConfigError
from trainer.learner import checkpoint
from trainer.learner.fsdp import World, world
from trainer.learner.learner import Learner
from trainer.policy import load_model

LORA: dict[str, Any] = {"rank": 4, "alpha": 8.0}
LAYERS = ("down", "gate", "k", "o", "q", "up", "v")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


def _learner(policy: Path, where: World, **changes: Any) -> Learner:
    settings = {"device": "cpu", "lr": 1e-2, "lora": LORA, "microbatch_tokens": 40, **changes}
    return Learner(policy, LearnerSection.model_validate(settings), where, seed=5)


def _learn(policy: Path, out: Path, where: World) -> None:
    """Take a step, leave a checkpoint, take two more, export."""
    learner = _learner(policy, where, kl=0.1)
    learner.step(make_rows(7, seed=0))
    learner.save(out / "checkpoints", 1, {}, 1)
    for seed in (1, 2):
        learner.step(make_rows(7, seed=seed))
    learner.export(out, 3, "float32")


@pytest.fixture(scope="module")
def exported(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        _learn(policy, out, where)
    return out / "v3"


def test_an_export_is_an_adapter_folder(policy: Path, exported: Path) -> None:
    """Two files and the mark; names without an adapter's name, as vLLM reads them; no weight of the model itself."""
    assert sorted(path.name for path in exported.iterdir()) == [
        "STABLE",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((exported / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["inference_mode"]) == ("LORA", 4, 8, True)
    assert config["base_model_name_or_path"] == str(policy.resolve())
    assert config["target_modules"] == [f"{layer}_proj" for layer in LAYERS]
    names = load_file(exported / "adapter_model.safetensors")
    assert len(names) == 2 * 2 * len(LAYERS)
    attention = "base_model.model.model.layers.0.self_attn.q_proj"
    assert names[f"{attention}.lora_A.weight"].shape == (4, 32)
    assert all(float(value.abs().max()) > 0 for value in names.values())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own call
def test_the_merged_model_has_the_learners_logprobs(policy: Path, exported: Path) -> None:
    """Read by peft and merged, or by transformers from the folder alone: as the learner scores, to 1e-5."""
    batch = make_rows(4, seed=8)
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where, kl=0.1)
        learner.load(exported.parent / "checkpoints" / "step-1")
        for seed in (1, 2):
            learner.step(make_rows(7, seed=seed))
        expected = learner.logprobs(batch)
        untrained = _learner(policy, where).logprobs(batch)
    merged = peft.PeftModel.from_pretrained(load_model(policy), exported).merge_and_unload()
    with torch.no_grad():
        for row, logprobs, before in zip(batch, expected, untrained, strict=True):
            torch.testing.assert_close(row_logprobs(merged, row), torch.tensor(logprobs), atol=1e-5, rtol=0)
            torch.testing.assert_close(
                row_logprobs(load_model(exported), row), torch.tensor(logprobs), atol=1e-5, rtol=0
            )
            torch.testing.assert_close(row_logprobs(load_model(policy), row), torch.tensor(before), atol=1e-5, rtol=0)
            assert max(abs(new - old) for new, old in zip(logprobs, before, strict=True)) > 1e-3


def test_only_adapters_are_trained_and_saved(policy: Path) -> None:
    """Weights of the model stay to the bit, have no optimiser state, and are in no checkpoint."""
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where, optimizer="muon")
        learner.step(make_rows(6))
        state = learner.model.state_dict()
        for name, value in load_model(policy).state_dict().items():
            stem, _, leaf = name.rpartition(".")
            found = state.get(f"base_model.model.{name}", state.get(f"base_model.model.{stem}.base_layer.{leaf}"))
            assert found is not None
            assert torch.equal(found.full_tensor(), value), name
        saved = learner._subject.state_dict()
        _, optimizers = get_state_dict(learner.model, learner.optimizers, options=learner._subject._options)
    for names in (saved["model"], optimizers["state"]):
        assert len(names) == 2 * 2 * len(LAYERS)
        assert all("lora_" in name for name in names)


def test_ranks_train_the_same_adapters(policy: Path, exported: Path, tmp_path: Path) -> None:
    """Two ranks end at one's adapters, and a run of two goes on from a checkpoint of one, and the other way round."""
    on_ranks(2, _learn, policy, tmp_path)
    on_ranks(2, _go_on, policy, exported.parent, tmp_path / "more")
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        _go_on(policy, tmp_path, tmp_path / "fewer", where)
    expected = load_file(exported / "adapter_model.safetensors")
    for run in (tmp_path, tmp_path / "more", tmp_path / "fewer"):
        found = load_file(run / "v3" / "adapter_model.safetensors")
        assert found.keys() == expected.keys()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=0, msg=name)


def _go_on(policy: Path, before: Path, out: Path, where: World) -> None:
    """Resume after the first step, take the other two, export."""
    learner = _learner(policy, where, kl=0.1)
    found = checkpoint.latest(before / "checkpoints")
    assert found is not None
    learner.load(found)
    for seed in (1, 2):
        learner.step(make_rows(7, seed=seed))
    learner.export(out, 3, "float32")


def test_the_reference_of_adapters_is_the_model_without_them(policy: Path) -> None:
    """No copy is kept; the divergence is 0 before the first update and not after it, also where activations are not kept."""
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        learner = _learner(policy, where, kl=0.1, dtype="bfloat16", activation_checkpointing=True)
        assert learner._reference is learner.model
        base = {value.dtype for value in learner.model.parameters() if not value.requires_grad}
        trained = {value.dtype for value in learner.model.parameters() if value.requires_grad}
        assert (base, trained) == ({torch.bfloat16}, {torch.float32})
        first, second = (learner.step(make_rows(6, seed=seed)) for seed in (0, 1))
        assert first.kl_reference == 0.0
        assert second.kl_reference is not None
        assert second.kl_reference > 1e-4


def test_layers_that_the_model_lacks_are_named_in_one_line(policy: Path) -> None:
    """The message lists those that it has; two of them by name are fine."""
    with world("cpu", timeout_s=TIMEOUT_S) as where:
        with pytest.raises(ConfigError, match=r"lora\.targets = 'query'.*q_proj.*all-linear") as caught:
            _learner(policy, where, lora={**LORA, "targets": "query"})
        assert "\n" not in str(caught.value)
        some = _learner(policy, where, lora={**LORA, "targets": "q_proj, v_proj"})
        assert sum(value.requires_grad for value in some.model.parameters()) == 2 * 2 * 2
