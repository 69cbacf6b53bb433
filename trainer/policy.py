"""The policy's weights and tokenizer: any Hugging Face causal model, or a small one made on the spot.

Owns loading, and the demo policy: a Qwen3 of under a million parameters over single characters, warmed up by a short
supervised phase on the task's own demonstrations, so that some rollouts succeed and reinforcement has something to work
on. It is made once per settings and kept. Knows nothing of rollouts, allocators or sharding.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils.logging import disable_progress_bar

from trainer import tasks
from trainer.config import Config, DemoPolicySection
from trainer.errors import ConfigError
from trainer.types import Problem

PAD, EOS, BOS, UNKNOWN = "<pad>", "<eos>", "<bos>", "<unk>"
ALPHABET = "".join(chr(code) for code in range(32, 127)) + "\n"
"""Printable ASCII: any short text can be written, though only digits and signs are learned in the warm-up."""
HEAD_DIM = 32
"""Channels of an attention head: the least that vLLM's CPU kernels support."""
MAX_POSITIONS = 512
"""Longest sequence of the demo policy: far above a sum with its answer."""
WARMUP_RAMP_STEPS = 50
"""Steps over which the warm-up's learning rate grows: AdamW's second moments are unreliable before."""
RECIPE = 1
"""Version of the making below; raised when it changes, so that kept policies are made anew."""

logger = logging.getLogger(__name__)


@runtime_checkable
class Demonstrating(Protocol):
    """A task that can show solved problems, none of them held out."""

    def demonstrations(self, seed: int = 0) -> Iterator[Problem]:
        """Yield solved problems without end."""
        ...


def ensure_policy(config: Config) -> Path:
    """Return a folder with the starting weights and tokenizer, made, downloaded or found.

    Safe to call from several processes at once: the folder appears complete or not at all.

    Raises:
        ConfigError: `policy.path` names no model, or the task has no demonstrations to warm a demo policy up with.
    """
    disable_progress_bar()
    if config.policy.path is not None:
        return _given(config.policy.path)
    directory = config.run.cache_dir / f"policy-{demo_key(config)}"
    if not directory.is_dir():
        task = tasks.get(config.task.name, config.task.options)
        if not isinstance(task, Demonstrating):
            raise ConfigError(
                f"policy.path: task {task.name!r} cannot warm up the demo policy; name a Hugging Face model"
            )
        _make(config.policy.demo, task.demonstrations(config.policy.demo.seed), directory)
    return directory


def demo_key(config: Config) -> str:
    """Return a short hash of everything that the demo policy follows from."""
    options = {name: value for name, value in config.task.options.items() if name != "size"}
    recipe = [RECIPE, config.policy.demo.model_dump(mode="json"), config.task.name, options]
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def load_model(directory: Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return the causal model in `directory`, on the CPU, without a key-value cache.

    In evaluation mode, also where it is trained: dropout would make ratios of what should be equal.
    """
    disable_progress_bar()
    model = cast("PreTrainedModel", AutoModelForCausalLM.from_pretrained(directory, dtype=dtype))
    model.config.use_cache = False
    return model.eval()


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in `directory`."""
    return cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(directory))


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, *, chat_template: bool) -> tuple[int, ...]:
    """Return the token ids that the policy is asked to continue."""
    if chat_template:
        messages = [{"role": "user", "content": prompt}]
        ids: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    else:
        ids = tokenizer(prompt)["input_ids"]
    return tuple(ids)


def character_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of single printable characters that puts a beginning-of-sequence token first."""
    specials = (PAD, EOS, BOS, UNKNOWN)
    vocabulary = {token: index for index, token in enumerate((*specials, *ALPHABET))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])])
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=EOS, bos_token=BOS, unk_token=UNKNOWN
    )


def demo_model(settings: DemoPolicySection, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return a freshly drawn Qwen3 of the given sizes; the same seed gives the same weights."""
    shape = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        head_dim=HEAD_DIM,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model: PreTrainedModel = Qwen3ForCausalLM(shape)
    return model


def warm_up(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: Iterable[Problem],
    settings: DemoPolicySection,
) -> float:
    """Teach the model to answer as the demonstrations do; return the last step's loss per answer token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.warmup_lr, betas=(0.9, 0.98), weight_decay=0.0)
    source = iter(demonstrations)
    last = float("nan")
    for step in range(1, settings.warmup_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.warmup_lr * min(1.0, step / WARMUP_RAMP_STEPS)
        inputs, labels = _demonstration_batch(tokenizer, list(itertools.islice(source, settings.warmup_batch)))
        logits = model(input_ids=inputs[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch's own stub
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        last = float(loss.detach())
    return last


def _demonstration_batch(
    tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return right-padded ids (B, T) and labels (B, T), -100 except on the answer and its end."""
    rows = [
        (tokenizer(problem.prompt)["input_ids"], tokenizer(problem.answer, add_special_tokens=False)["input_ids"])
        for problem in problems
    ]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows) + 1
    ids = torch.full((len(rows), longest), cast("int", tokenizer.pad_token_id))
    labels = torch.full((len(rows), longest), -100)
    for row, (prompt, answer) in enumerate(rows):
        completed = torch.tensor([*answer, tokenizer.eos_token_id])
        ids[row, : len(prompt)] = torch.tensor(prompt)
        ids[row, len(prompt) : len(prompt) + len(completed)] = completed
        labels[row, len(prompt) : len(prompt) + len(completed)] = completed
    return ids, labels


def _make(settings: DemoPolicySection, demonstrations: Iterable[Problem], directory: Path) -> None:
    tokenizer = character_tokenizer()
    model = demo_model(settings, tokenizer)
    logger.info("warming up a demo policy of %s parameters", f"{model.num_parameters():,}")
    loss = warm_up(model, tokenizer, demonstrations, settings)
    logger.info("the demo policy's warm-up ended at a loss of %.3f per token", loss)
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    model.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    try:
        os.rename(draft, directory)  # noqa: PTH104 - fails where another process was first, unlike Path.replace
    except OSError:
        shutil.rmtree(draft)
        if not directory.is_dir():
            raise


def _given(path: str) -> Path:
    local = Path(path).expanduser()
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise ConfigError(f"policy.path: {path!r} holds no Hugging Face model (there is no config.json)")
        return local
    try:
        return Path(snapshot_download(path))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"policy.path: {path!r} is neither a folder nor a model that can be fetched: {reason}") from (
            error
        )
