"""Models of a few thousand random weights, written to folders as the real ones are: real loading code, no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORDS = ["[PAD]", "[UNK]", "[END]", *(f"w{i}" for i in range(60))]
TEXTS = ["w1 w2 w3", "w4", "", "w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15", "w2 w1 w3", "w59 strange w0 w0 w0 w30"]
V0_SIZES = {"num_queries": 14, "embed_dim": 6, "num_heads": 3}


def save_tokenizer(folder: Path) -> None:
    """Write a tokenizer that splits at spaces and ends each text with one more token, as Qwen3-Embedding's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: PLC0415  with transformers only
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415  the same

    tokenizer = Tokenizer(models.WordLevel({word: code for code, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [END]", special_tokens=[("[END]", 2)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[END]")
    fast.save_pretrained(folder)


def save_bert(folder: Path, *, card: str | None = None) -> Any:
    """Write a bidirectional encoder with absolute positions; return it."""
    from transformers import BertConfig, BertModel  # noqa: PLC0415  as above

    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    save_tokenizer(folder)
    model.save_pretrained(folder)
    if card is not None:
        (folder / "README.md").write_text(card)
    return model


def save_qwen3(folder: Path) -> Any:
    """Write a causal model of Qwen3-Embedding's kind; return it."""
    from transformers import Qwen3Config, Qwen3Model  # noqa: PLC0415  as above

    torch.manual_seed(2)
    config = Qwen3Config(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        max_position_embeddings=4096,
    )
    model = Qwen3Model(config).eval()
    for parameter in model.parameters():  # larger than a fresh model's, so that attention is not nearly flat
        torch.nn.init.normal_(parameter, std=0.3)
    save_tokenizer(folder)
    model.save_pretrained(folder)
    return model


def adapter_state(seed: int = 3, *, width: int = 32) -> dict[str, Tensor]:
    """Return random weights under the names that V0's training code gives its adapter."""
    rng = np.random.default_rng(seed)
    queries, embed, bottleneck = V0_SIZES["num_queries"], V0_SIZES["embed_dim"], 20

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(scale=0.5, size=shape).astype(np.float32))

    return {
        "static_queries": draw(1, queries, embed),
        "generator.0.weight": draw(bottleneck, width),
        "generator.0.bias": draw(bottleneck),
        "generator.1.weight": 1 + draw(bottleneck),
        "generator.1.bias": draw(bottleneck),
        "generator.4.weight": draw(queries * embed, bottleneck),
        "generator.4.bias": draw(queries * embed),
        "proj_kv.weight": draw(embed, width),
        "proj_kv.bias": draw(embed),
        "mha.in_proj_weight": draw(3 * embed, embed),
        "mha.in_proj_bias": draw(3 * embed),
        "mha.out_proj.weight": draw(embed, embed),
        "mha.out_proj.bias": draw(embed),
        "ln_q.weight": 1 + draw(embed),
        "ln_q.bias": draw(embed),
        "ln_kv.weight": 1 + draw(embed),
        "ln_kv.bias": draw(embed),
    }


def save_v0(path: Path, backbone: Any | None, *, wrapped: bool = False, **changes: Any) -> dict[str, Tensor]:
    """Write a checkpoint as V0's training code does, optimizer state and arguments included; return the adapter's state."""
    adapter = adapter_state()
    state = {f"adapter_layer.{name}": value for name, value in adapter.items()}
    if backbone is not None:
        state |= {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    if wrapped:
        state = {f"module.{name}": value for name, value in state.items()}
    content = {
        "epoch": 7,
        "model_state_dict": state,
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4}]},
        "scheduler_state_dict": None,
        "args": {**V0_SIZES, "pooling_strategy": "dynamic_query", "context_data_paths": ["a"]},
        "wandb_run_id": None,
    }
    torch.save(content | changes, path)
    return adapter
