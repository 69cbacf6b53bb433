"""V0's encoder against a reference in plain numpy, on random weights under the published names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from services.prior_api.encoders import Choice, create
from services.prior_api.encoders.placement import Placement
from services.prior_api.encoders.surface import Described
from services.prior_api.encoders.v0 import CHECKPOINT, V0
from services.prior_api.encoders.v0_adapter import Adapter, Shape
from services.prior_api.weights import Unloadable, Weights
from tests.prior_api.tiny_models import TEXTS, V0_SIZES, WORDS, adapter_state, save_qwen3, save_v0

Array = NDArray[np.float64]


def norm(rows: Array, weight: Array, bias: Array, epsilon: float = 1e-5) -> Array:
    centred: Array = rows - rows.mean(axis=-1, keepdims=True)
    scaled: Array = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + epsilon) * weight + bias
    return scaled


def reference_features(states: Array, state: dict[str, Array], heads: int) -> Array:
    """One prompt's features from its token states (tokens, width), written from the paper: no padding, no batches."""
    queries, width = state["static_queries"].shape[1:]
    hidden = state["generator.0.weight"] @ states[-1] + state["generator.0.bias"]
    hidden = norm(hidden, state["generator.1.weight"], state["generator.1.bias"])
    hidden = np.array([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in hidden])
    residual = state["generator.4.weight"] @ hidden + state["generator.4.bias"]
    q = state["static_queries"][0] + residual.reshape(queries, width)
    kv = states @ state["proj_kv.weight"].T + state["proj_kv.bias"]
    weights = np.split(state["mha.in_proj_weight"], 3)
    biases = np.split(state["mha.in_proj_bias"], 3)
    sources = (
        norm(q, state["ln_q.weight"], state["ln_q.bias"]),
        norm(kv, state["ln_kv.weight"], state["ln_kv.bias"]),
        kv,
    )
    projected = [x @ w.T + b for x, w, b in zip(sources, weights, biases, strict=True)]
    answers = []
    for q_head, k_head, v_head in zip(*(np.split(x, heads, axis=1) for x in projected), strict=True):
        scores = q_head @ k_head.T / math.sqrt(width / heads)
        attention = np.exp(scores - scores.max(axis=1, keepdims=True))
        answers.append(attention / attention.sum(axis=1, keepdims=True) @ v_head)
    joined = np.concatenate(answers, axis=1) @ state["mha.out_proj.weight"].T + state["mha.out_proj.bias"]
    return joined.reshape(-1)


def reference_states(model: Any, tokens: list[int]) -> Array:
    """Qwen3's last token states of one text (tokens, width), written from its description: no mask, no batches."""
    config, state = model.config, {name: value.double().numpy() for name, value in model.state_dict().items()}
    size, groups = config.head_dim, config.num_attention_heads // config.num_key_value_heads
    theta = config.rope_parameters["rope_theta"]

    def rms(rows: Array, weight: Array) -> Array:
        scaled: Array = rows / np.sqrt(np.square(rows).mean(axis=-1, keepdims=True) + config.rms_norm_eps) * weight
        return scaled

    def turn(rows: Array, position: int) -> Array:
        angles = position / theta ** (np.arange(0, size, 2) / size)
        first, second = np.split(rows, 2, axis=-1)
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    rows = state["embed_tokens.weight"][tokens]
    for layer in range(config.num_hidden_layers):
        own = {name.split(".", 2)[2]: value for name, value in state.items() if name.startswith(f"layers.{layer}.")}
        inner = rms(rows, own["input_layernorm.weight"])
        q, k, v = (
            (inner @ own[f"self_attn.{name}_proj.weight"].T).reshape(len(tokens), -1, size) for name in ("q", "k", "v")
        )
        q, k = rms(q, own["self_attn.q_norm.weight"]), rms(k, own["self_attn.k_norm.weight"])
        mixed = np.zeros_like(q)
        for here in range(len(tokens)):
            for head in range(config.num_attention_heads):
                asked = turn(q[here, head], here)
                scores = np.array([asked @ turn(k[there, head // groups], there) for there in range(here + 1)])
                chances = np.exp(scores / math.sqrt(size) - (scores / math.sqrt(size)).max())
                mixed[here, head] = chances / chances.sum() @ v[: here + 1, head // groups]
        rows = rows + mixed.reshape(len(tokens), -1) @ own["self_attn.o_proj.weight"].T
        inner = rms(rows, own["post_attention_layernorm.weight"])
        gate = inner @ own["mlp.gate_proj.weight"].T
        gated = gate / (1 + np.exp(-gate)) * (inner @ own["mlp.up_proj.weight"].T)
        rows = rows + gated @ own["mlp.down_proj.weight"].T
    return rms(rows, state["norm.weight"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone and a checkpoint beside it."""
    folder = tmp_path_factory.mktemp("v0")
    save_v0(folder / CHECKPOINT, save_qwen3(folder))
    return folder


def loaded(folder: Path, **placement: Any) -> V0:
    encoder = V0(Weights(str(folder)), Weights(str(folder)), Placement(**placement))
    encoder.load()
    return encoder


def tokens_of(text: str) -> list[int]:
    return [WORDS.index(word) if word in WORDS else 1 for word in text.split()] + [2]


def test_features_equal_a_reference_in_plain_numpy(folder: Path) -> None:
    """Backbone, last token, residual queries, attention: all features of all texts, in float64 beside float32."""
    model = save_qwen3(folder)
    state = {name: value.double().numpy() for name, value in adapter_state().items()}
    expected = [reference_features(reference_states(model, tokens_of(t)), state, V0_SIZES["num_heads"]) for t in TEXTS]
    features = loaded(folder).encode(TEXTS)
    assert features.shape == (len(TEXTS), V0_SIZES["num_queries"] * V0_SIZES["embed_dim"])
    assert features.dtype == np.float32
    assert features == pytest.approx(np.array(expected), abs=2e-4)
    assert np.ptp(features, axis=0).min() > 1e-3  # texts are told apart in every feature


@pytest.mark.parametrize("batch_tokens", [1, 24, 4096])
@pytest.mark.parametrize("side", ["left", "right"])
def test_neither_padding_nor_company_changes_features(
    folder: Path, monkeypatch: pytest.MonkeyPatch, side: str, batch_tokens: int
) -> None:
    """Each text alone, or padded on either side in batches of any size, has the same features."""
    alone = loaded(folder)
    expected = np.concatenate([alone.encode([text]) for text in TEXTS])
    monkeypatch.setattr(V0, "side", side)
    assert loaded(folder, batch_tokens=batch_tokens).encode(TEXTS) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("with_backbone", [False, True])
def test_a_checkpoint_loads_however_it_was_saved(
    folder: Path, tmp_path: Path, *, wrapped: bool, with_backbone: bool
) -> None:
    """With the names of a wrapped model or without, with the backbone's weights or without: the same features."""
    backbone = save_qwen3(tmp_path)
    save_v0(tmp_path / CHECKPOINT, backbone if with_backbone else None, wrapped=wrapped)
    if with_backbone:
        (tmp_path / "model.safetensors").unlink()  # then the folder of the backbone needs no weights
    assert np.array_equal(loaded(tmp_path).encode(TEXTS), loaded(folder).encode(TEXTS))


def test_the_published_sizes_make_1008_features() -> None:
    """168 queries of width 6 read states of width 1,024; 3 heads."""
    adapter = Adapter(Shape())
    assert adapter.shape.features == 1008
    assert adapter(torch.zeros(2, 5, 1024), torch.ones(2, 5, dtype=torch.long)).shape == (2, 1008)
    assert {name: tuple(value.shape) for name, value in adapter.state_dict().items()} == {
        "static_queries": (1, 168, 6),
        "generator.0.weight": (128, 1024),
        "generator.0.bias": (128,),
        "generator.1.weight": (128,),
        "generator.1.bias": (128,),
        "generator.4.weight": (1008, 128),
        "generator.4.bias": (1008,),
        "proj_kv.weight": (6, 1024),
        "proj_kv.bias": (6,),
        "mha.in_proj_weight": (18, 6),
        "mha.in_proj_bias": (18,),
        "mha.out_proj.weight": (6, 6),
        "mha.out_proj.bias": (6,),
        "ln_q.weight": (6,),
        "ln_q.bias": (6,),
        "ln_kv.weight": (6,),
        "ln_kv.bias": (6,),
    }


def test_long_prompts_are_cut_at_2048_tokens(folder: Path) -> None:
    """What follows has no effect; the last token of what is left is still the end token."""
    long = "w1 w2 w3 w4 " * 600
    encoder = loaded(folder)
    assert np.array_equal(encoder.encode([long]), encoder.encode([long + "w9 w9 w9"]))
    assert not np.array_equal(encoder.encode([long]), encoder.encode(["w9 " + long]))


class Stranger:
    """What no checkpoint should hold."""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_state_dict": {}}, "does not fit V0's adapter"),
        ({"model_state_dict": None}, "no model_state_dict"),
        ({"wandb_run_id": Stranger()}, "UnpicklingError"),
        ({"args": {"num_heads": 4}}, "does not fit|divisible"),
    ],
    ids=["no adapter", "no state", "code", "heads"],
)
def test_what_is_no_checkpoint_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """A file with objects in it is refused before any of them is made."""
    save_qwen3(tmp_path)
    save_v0(tmp_path / CHECKPOINT, None, **changes)
    with pytest.raises(Unloadable, match=message):
        V0(Weights(str(tmp_path)), Weights(str(tmp_path)), Placement())


def test_an_adapter_for_another_backbone_is_refused(tmp_path: Path) -> None:
    """Widths that do not fit are named."""
    save_qwen3(tmp_path)
    state = {f"adapter_layer.{name}": value for name, value in adapter_state(width=40).items()}
    save_v0(tmp_path / CHECKPOINT, None, model_state_dict=state)
    with pytest.raises(Unloadable, match="reads 40 numbers a token"):
        V0(Weights(str(tmp_path)), Weights(str(tmp_path)), Placement())


def test_the_settings_name_finds_it_and_its_name_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    """`v0:FOLDER` is this encoder; other weights are another name, and its features are not scaled to length 1."""
    encoder = create(Choice(name=f"v0:{folder}", backbone=str(folder)), Placement())
    assert isinstance(encoder, Described)
    assert isinstance(encoder.encoder, V0)
    assert not encoder.unit
    save_qwen3(tmp_path)
    state = {f"adapter_layer.{name}": value for name, value in adapter_state(seed=9).items()}
    save_v0(tmp_path / CHECKPOINT, None, model_state_dict=state)
    assert create(Choice(name=f"v0:{tmp_path}", backbone=str(folder)), Placement()).name != encoder.name
