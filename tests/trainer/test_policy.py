"""The starting policy: made once, the same for the same settings, and what is asked for by path."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from trainer.config import Config, load
from trainer.errors import ConfigError
from trainer.policy import (
    character_tokenizer,
    demo_key,
    demo_model,
    encode_prompt,
    ensure_policy,
    load_model,
    load_tokenizer,
    warm_up,
)
from trainer.tasks import Arithmetic

TINY = ("hidden_size=32", "intermediate_size=48", "layers=1", "heads=1", "kv_heads=1", "warmup_batch=16")


def _config(folder: Path, *changes: str) -> Config:
    demo = [f"policy.demo.{setting}" for setting in (*TINY, "warmup_steps=2")]
    return load(None, [f"run.cache_dir={folder}", "task.arithmetic.levels=[1, 2]", *demo, *changes])


def test_characters_survive_and_a_prompt_begins_with_bos() -> None:
    """One token per character, and back; a sampled end is left out of the text."""
    tokenizer = character_tokenizer()
    ids = encode_prompt(tokenizer, "12+345=", chat_template=False)
    assert ids[0] == tokenizer.bos_token_id
    assert len(ids) == 8
    assert tokenizer.decode([*ids[1:], tokenizer.eos_token_id], skip_special_tokens=True) == "12+345="


def test_a_chat_template_is_applied_where_asked() -> None:
    """The prompt becomes one user message."""
    tokenizer = character_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
    ids = encode_prompt(tokenizer, "1+1=", chat_template=True)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<1+1=>"


def test_the_policy_is_made_once_per_settings(tmp_path: Path) -> None:
    """The second call finds it; another setting makes another; the size of the training pool does not."""
    config = _config(tmp_path)
    directory = ensure_policy(config)
    written = (directory / "model.safetensors").stat().st_mtime_ns
    assert ensure_policy(config) == directory
    assert (directory / "model.safetensors").stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == [directory.name]
    assert demo_key(_config(tmp_path, "task.arithmetic.size=99")) == demo_key(config)
    assert demo_key(_config(tmp_path, "policy.demo.seed=1")) != demo_key(config)
    assert demo_key(_config(tmp_path, "task.arithmetic.levels=[1]")) != demo_key(config)


def test_the_same_settings_make_the_same_weights(tmp_path: Path) -> None:
    """Whatever was drawn before: weights and warm-up follow from their own seed, and the caller's generator is kept."""
    torch.manual_seed(1)
    first = load_model(ensure_policy(_config(tmp_path / "a")))
    torch.manual_seed(2)
    second = load_model(ensure_policy(_config(tmp_path / "b")))
    drawn = torch.rand(1)
    torch.manual_seed(2)
    assert torch.equal(torch.rand(1), drawn)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_demo_policy_is_what_servers_can_serve(tmp_path: Path) -> None:
    """Qwen3, untied, heads of 32 channels; model, tokenizer and settings agree about special tokens."""
    directory = ensure_policy(_config(tmp_path))
    model, tokenizer = load_model(directory), load_tokenizer(directory)
    assert model.config.model_type == "qwen3"
    assert model.config.head_dim == 32
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert encode_prompt(tokenizer, "1+1=", chat_template=False)[0] == tokenizer.bos_token_id


def test_the_warm_up_teaches() -> None:
    """Loss on the answers of one-digit sums falls well below that of guessing among the characters that occur."""
    task = Arithmetic(size=20, held_out_size=10, levels=(1,))
    settings = load(
        None, [f"policy.demo.{setting}" for setting in (*TINY, "warmup_steps=60", "warmup_lr=1e-2")]
    ).policy.demo
    tokenizer = character_tokenizer()
    model = demo_model(settings, tokenizer)
    loss = warm_up(model, tokenizer, task.demonstrations(), settings)
    assert loss < 1.2
    assert len(list(islice(task.demonstrations(), 3))) == 3


def test_a_folder_is_taken_as_it_is_and_nonsense_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`policy.path` as a folder; as neither folder nor model, one line says so."""
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="holds no Hugging Face model"):
        ensure_policy(load(None, [f"policy.path={tmp_path / 'mine'}"]))
    (tmp_path / "mine" / "config.json").touch()
    assert ensure_policy(load(None, [f"policy.path={tmp_path / 'mine'}"])) == tmp_path / "mine"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"policy.path: 'not/a/model' is neither a folder nor a model") as caught:
        ensure_policy(load(None, ["policy.path=not/a/model"]))
    assert "\n" not in str(caught.value)


def test_a_task_without_demonstrations_needs_a_model(tmp_path: Path) -> None:
    """A demo policy cannot be warmed up on a JSONL file; the message says what to name."""
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "1+1=", "answer": "2"}\n')
    overrides = [
        "task.name=jsonl",
        f"task.jsonl.path={data}",
        "task.jsonl.held_out_share=0",
        f"run.cache_dir={tmp_path}",
    ]
    with pytest.raises(ConfigError, match=r"policy\.path: task 'jsonl' cannot warm up the demo policy"):
        ensure_policy(load(None, overrides))
