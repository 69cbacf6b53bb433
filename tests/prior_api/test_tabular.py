"""In-context heads: the same demands on a classifier in plain numpy and on the real packages with random weights."""

from __future__ import annotations

import dataclasses
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout_budget.outcomes import FloatArray
from rollout_budget.wire import ModelPart
from services.prior_api.heads import CONTROLS, Context, GaussianProcess
from services.prior_api.heads.base import Float32Array
from services.prior_api.heads.tabicl import CHECKPOINT, TabICL
from services.prior_api.heads.tabpfn import TabPFN, locate
from services.prior_api.heads.tabular import CHUNK, Classifier, InContext, Labels, nearest
from services.prior_api.heads.unit import OnUnitVectors
from services.prior_api.records import Cell
from services.prior_api.weights import Unloadable, Weights
from tests.prior_api.fakes import WIDTH
from tests.prior_api.test_heads import cell, features, question


class Neighbours:
    """A kernel vote over the context, which remembers what it was shown."""

    version = "neighbours/1"
    part = ModelPart(name="neighbours", licence="mit", source="here", commercial_use=True)

    def __init__(self) -> None:
        self.seen: list[tuple[Float32Array, Labels, Float32Array]] = []
        self.loads = 0
        self.failure: Exception | None = None

    def load(self) -> None:
        self.loads += 1
        if self.failure is not None:
            raise self.failure

    def probabilities(self, context: Float32Array, labels: Labels, targets: Float32Array) -> FloatArray:
        self.seen.append((context, labels, targets))
        weights = np.exp(4 * (targets @ context.T).astype(np.float64))
        vote: FloatArray = weights @ labels / weights.sum(axis=1)
        return vote


def tabicl(folder: Path) -> Classifier:
    """The package's model, small and at random, in a file as the published one is."""
    package = pytest.importorskip("tabicl", reason="the extra prior-tabicl is not installed")
    del package
    from tabicl._model.tabicl import TabICL as Model  # noqa: PLC0415  an extra

    torch.manual_seed(0)
    config = {
        "max_classes": 10, "embed_dim": 16, "col_num_blocks": 1, "col_nhead": 2, "col_num_inds": 8,
        "row_num_blocks": 1, "row_nhead": 2, "row_num_cls": 2, "icl_num_blocks": 2, "icl_nhead": 2,
    }  # fmt: skip
    model = Model(**config)
    for parameter in model.parameters():  # a fresh model has layers of zeros: it would answer one half to everything
        torch.nn.init.normal_(parameter, std=0.3)
    torch.save({"config": config, "state_dict": model.state_dict()}, folder / CHECKPOINT)
    return TabICL(Weights(str(folder)), device="cpu", estimators=4)


def tabpfn(folder: Path) -> Classifier:
    """The package's version 2.5, small and at random, in a file as the published one is."""
    pytest.importorskip("tabpfn", reason="the extra prior-tabpfn is not installed")
    from tabpfn.architectures.tabpfn_v2_5 import TabPFNV2p5Config, get_architecture  # noqa: PLC0415  an extra

    torch.manual_seed(0)
    config = TabPFNV2p5Config(max_num_classes=10, num_buckets=100, emsize=16, nlayers=2, nhead=2)
    model = get_architecture(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    content = {"config": dataclasses.asdict(config), "state_dict": model.state_dict(), "architecture_name": "base"}
    torch.save(content, folder / "tabpfn-v2.5-classifier-v2.5_default.ckpt")
    return TabPFN(*locate(str(folder)), device="cpu", estimators=4)


MAKERS: dict[str, Callable[[Path], Classifier]] = {
    "neighbours": lambda _folder: Neighbours(),
    "tabicl": tabicl,
    "tabpfn": tabpfn,
}


@pytest.fixture(params=list(MAKERS))
def classifier(request: pytest.FixtureRequest, tmp_path: Path) -> Classifier:
    """Each classifier in turn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third parties' remarks while they are imported
        return MAKERS[request.param](tmp_path)


def head_of(classifier: Classifier, rows: int = 256) -> InContext:
    return InContext("tabicl", classifier, rows=rows)


def some_cells(count: int = 90) -> list[Cell]:
    rng = np.random.default_rng(0)
    return [
        cell(f"w{i % 23} x{i % 7}", float(rng.integers(0, 5)), 4, version=i // 23, policy="mn"[i % 2])
        for i in range(count)
    ]


def known(cells: list[Cell]) -> dict[str, Float32Array]:
    return features(*(c.key for c in cells if c.text_hash))


def test_answers_lie_in_range_for_prompts_with_and_without_features(classifier: Classifier) -> None:
    """Values in [0, 1], errors in [0, 1/2]; prompts differ, and one without features gets its own history's value."""
    cells = some_cells()
    own = [c for c in cells if c.policy == "m"]
    asked = question("w1 x1", "w2 x9", "fresh words", version=2, cells=own)
    answer = head_of(classifier).fit(Context(cells, known(cells))).values(asked)
    assert ((answer.values >= 0) & (answer.values <= 1)).all()
    assert ((answer.standard_errors >= 0) & (answer.standard_errors <= 0.5)).all()
    assert np.ptp(answer.values) > 1e-5
    bare = question("w1 x1", version=2, cells=own, known=False)
    expected = CONTROLS["history"].values(bare)
    without = head_of(classifier).fit(Context(cells, known(cells))).values(bare)
    assert np.array_equal(without.values, expected.values)
    assert np.array_equal(without.standard_errors, expected.standard_errors)


def test_neither_the_order_of_evidence_nor_an_earlier_question_changes_an_answer(classifier: Classifier) -> None:
    """Shuffled evidence, a new fit, another question in between: the same bits."""
    cells = some_cells()
    asked = question("w1 x1", "w2 x9", "fresh", version=2)
    head = head_of(classifier, rows=40)
    first = head.fit(Context(cells, known(cells))).values(asked)
    cells = [cells[place] for place in np.random.default_rng(5).permutation(len(cells))]
    second = head.fit(Context(cells, known(cells)))
    second.values(question("w3 x3", version=0, policy="n"))
    assert np.array_equal(second.values(asked).values, first.values)


def test_company_in_a_question_changes_no_answer(classifier: Classifier) -> None:
    """A prompt asked alone, or among others in any order, has the same value."""
    cells = some_cells()
    texts = ["w1 x1", "w2 x9", "fresh", "w5 x5"]
    fit = head_of(classifier).fit(Context(cells, known(cells)))
    together = fit.values(question(*texts, version=2)).values
    alone = [fit.values(question(text, version=2)).values[0] for text in texts]
    backwards = fit.values(question(*texts[::-1], version=2)).values[::-1]
    assert together == pytest.approx(alone, abs=1e-4)
    assert together == pytest.approx(backwards, abs=1e-4)


def test_labels_move_values(classifier: Classifier) -> None:
    """With every label turned round, the answers are others: the context is read."""
    cells = some_cells()
    turned = [dataclasses.replace(c, successes=c.trials - c.successes) for c in cells]
    asked = question("w1 x1", "w2 x9", version=2)
    head = head_of(classifier)
    one, other = (head.fit(Context(rows, known(cells))).values(asked).values for rows in (cells, turned))
    assert np.abs(one - other).max() > 1e-4


def test_the_context_is_v0s() -> None:
    """Bounded; own policy and near versions first; a row is solved from a rate of one half on."""
    shown = Neighbours()
    cells = [
        *(cell(f"near {i}", 2 if i % 2 else 1, 4, version=10) for i in range(6)),
        *(cell(f"far {i}", 4, 4, version=3) for i in range(6)),
        *(cell(f"foreign {i}", 4, 4, version=10, policy="n") for i in range(6)),
        cell("textless", 4, 4, version=10, known=False),
    ]
    head_of(shown, rows=8).fit(Context(cells, known(cells))).values(question("new", version=10))
    context, labels, targets = shown.seen[0]
    assert context.shape == (8, WIDTH)
    assert targets.shape == (1, WIDTH)
    chosen = nearest(cells[:-1], ("t", "m"), 10, 8)
    assert [c.key.split()[0] for c in chosen] == ["near"] * 6 + ["far"] * 2
    assert labels.tolist() == [int(c.successes >= 2) for c in chosen]
    assert sorted(labels.tolist()) == [0, 0, 0, 1, 1, 1, 1, 1]


PLACES = st.tuples(st.integers(0, 5), st.sampled_from("mn"), st.integers(0, 9))


@given(st.lists(PLACES, max_size=30, unique=True), st.integers(0, 40))
@settings(deadline=None)
def test_no_row_is_chosen_before_a_nearer_one(rows: list[tuple[int, str, int]], most: int) -> None:
    """The choice is a sorted prefix by policy, then distance, whatever the order of receipt."""
    cells = [cell(f"p{key}", 1, 1, version=version, policy=policy) for version, policy, key in rows]
    chosen = nearest(cells, ("t", "m"), 3, most)
    assert chosen == nearest(cells[::-1], ("t", "m"), 3, most)
    assert len(chosen) == min(most, len(cells))
    ranks = [(c.policy != "m", abs(c.version - 3)) for c in chosen]
    assert ranks == sorted(ranks)
    left = [(c.policy != "m", abs(c.version - 3)) for c in cells if c not in chosen]
    assert not ranks or all(rank >= ranks[-1] for rank in left)


def test_many_prompts_go_in_parts() -> None:
    """A request beyond one pass is answered in several, with the same answers."""
    shown = Neighbours()
    cells = some_cells()
    texts = [f"w{i}" for i in range(CHUNK + 3)]
    answer = head_of(shown).fit(Context(cells, known(cells))).values(question(*texts, version=2))
    assert [len(targets) for _, _, targets in shown.seen] == [CHUNK, 3]
    assert answer.values.shape == (CHUNK + 3,)


@pytest.mark.parametrize(
    ("cells", "message"),
    [([], "no rows"), ([cell("a", 4, 4)], "only solved rows"), ([cell("a", 0, 4), cell("b", 1, 4)], "only unsolved")],
)
def test_without_both_labels_there_is_no_answer(cells: list[Cell], message: str) -> None:
    """The head says so by the error that the service catches."""
    fit = head_of(Neighbours()).fit(Context(cells, known(cells)))
    with pytest.raises(ArithmeticError, match=message):
        fit.values(question("a", "b"))


def test_weights_that_do_not_load_are_asked_for_once() -> None:
    """The reason is kept and given at every fit."""
    broken = Neighbours()
    broken.failure = Unloadable("no such file")
    head = head_of(broken)
    for _ in range(3):
        with pytest.raises(ArithmeticError, match="no such file"):
            head.fit(Context([], {}))
    assert broken.loads == 1


def test_errors_are_bounded_by_the_mean_and_by_the_policys_spread() -> None:
    """The smaller of sqrt(p(1-p)) and the spread of rates: both cases occur."""
    cells = [cell(f"w{i}", 4 * (i % 2), 4) for i in range(60)]
    alike = [cell(f"w{i}", 2 + (i % 2), 5) for i in range(60)]
    for evidence in (cells, alike):
        asked = question("w1", "w2", "x", cells=evidence)
        answer = head_of(Neighbours()).fit(Context(evidence, known(evidence))).values(asked)
        spread = CONTROLS["running_mean"].values(asked).standard_errors
        largest = np.sqrt(answer.values * (1 - answer.values))
        assert answer.standard_errors == pytest.approx(np.minimum(spread, largest))


def test_one_question_at_a_time_reaches_the_classifier() -> None:
    """Two threads with one head: the second waits, as a classifier keeps its context in itself."""
    inside, entered, go = [], threading.Event(), threading.Event()

    class Slow(Neighbours):
        def probabilities(self, context: Float32Array, labels: Labels, targets: Float32Array) -> FloatArray:
            inside.append("in")
            entered.set()
            assert go.wait(30)
            inside.append("out")
            return super().probabilities(context, labels, targets)

    cells = some_cells()
    fit = head_of(Slow()).fit(Context(cells, known(cells)))
    threads = [threading.Thread(target=fit.values, args=(question("w1 x1", version=2),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert entered.wait(30)
    go.set()
    for thread in threads:
        thread.join(30)
    assert inside == ["in", "out", "in", "out"]


@pytest.mark.parametrize(
    ("file", "name", "commercial"),
    [
        ("tabpfn-v2-classifier-finetuned-zk73skhh.ckpt", "tabpfn-2", True),
        ("tabpfn-v2.5-classifier-v2.5_default.ckpt", "tabpfn-2.5", False),
        ("tabpfn-v3-classifier-v3_default.ckpt", "tabpfn-3", False),
        ("tabpfn-v3.5-fast-20260909.safetensors", "tabpfn-3.5", False),
    ],
)
def test_tabpfn_weights_name_their_licence(tmp_path: Path, file: str, name: str, *, commercial: bool) -> None:
    """Only version 2 is free for commercial use; V0's own head is version 2.5."""
    (tmp_path / file).write_bytes(b"")
    part = TabPFN(*locate(str(tmp_path)), device="cpu", estimators=4).part
    assert (part.name, part.commercial_use) == (name, commercial)
    assert (
        TabPFN(*locate("Now-Join-Us/Generalist-Value-Model-V0"), device="cpu", estimators=4).part.name == "tabpfn-2.5"
    )
    other = TabPFN(*locate(f"Prior-Labs/some/{file}"), device="cpu", estimators=4).part
    assert (other.name, other.source) == (name, f"Prior-Labs/some/{file}")


def test_tabpfn_weights_that_cannot_be_told_are_refused(tmp_path: Path) -> None:
    """A renamed file, an empty folder, a repository without a file name."""
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(Unloadable, match="keep the published name"):
        TabPFN(*locate(str(tmp_path / "model.ckpt")), device="cpu", estimators=4)
    with pytest.raises(Unloadable, match="has 0 files"):
        locate(str(tmp_path))
    with pytest.raises(Unloadable, match="name the file too"):
        locate("Prior-Labs/some")


@pytest.mark.parametrize(
    ("maker", "file"), [(tabicl, CHECKPOINT), (tabpfn, "tabpfn-v2.5-classifier-v2.5_default.ckpt")]
)
def test_a_broken_weights_file_is_no_fit(tmp_path: Path, maker: Callable[[Path], Any], file: str) -> None:
    """Cut short, or absent: the head answers by the error that the service catches."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        head = head_of(maker(tmp_path))
        (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:500])
        with pytest.raises(ArithmeticError, match=str(tmp_path)):
            head.fit(Context([], {}))


def test_unit_vectors_for_the_process() -> None:
    """Features of any length give the process's answers on the same directions; a zero vector does no harm."""
    cells = some_cells()
    asked = question("w1 x1", "w2 x9", version=2)
    plain = GaussianProcess(WIDTH).fit(Context(cells, known(cells))).values(asked)
    longer = {identity: 7 * vector for identity, vector in known(cells).items()}
    stretched = dataclasses.replace(asked, features={key: 3 * vector for key, vector in asked.features.items()})
    answer = OnUnitVectors(GaussianProcess(WIDTH)).fit(Context(cells, longer)).values(stretched)
    assert answer.values == pytest.approx(plain.values, abs=1e-5)
    zero = dataclasses.replace(asked, features={key: 0 * vector for key, vector in asked.features.items()})
    assert np.isfinite(OnUnitVectors(GaussianProcess(WIDTH)).fit(Context(cells, longer)).values(zero).values).all()
