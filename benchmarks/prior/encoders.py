"""Ways to run the packaged encoder on a CPU, side by side: prompts per second, agreement, effect on values.

    python -m benchmarks.prior.encoders --data FOLDER [--prompts 128] [--rounds 5]

`FOLDER` has `prompts.json` (text by name) and `context.jsonl` (outcomes). Every way sees the same prompts in the same
length-sorted batches; rounds alternate between ways, and the best processor time of each counts, as other work on the
machine only ever adds to it. ONNX Runtime and its int8 are measured where `onnx` and `onnxruntime` are installed; the
service does not use them (`docs/prior-models.md` says why).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from services.prior_api.encoders.batches import plan
from services.prior_api.encoders.minilm import MINILM_TOKENS, MiniLM
from services.prior_api.encoders.placement import CPU_BATCH_TOKENS, Placement
from services.prior_api.heads import Context, GaussianProcess, Question
from services.prior_api.heads.base import Float32Array
from services.prior_api.records import Cell

Encode = Callable[[Sequence[str]], Float32Array]


@dataclass(frozen=True, slots=True)
class Way:
    """A name and what it does; vectors have length 1."""

    name: str
    encode: Encode


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line for each way."""
    options = _parser().parse_args(arguments)
    texts = sample(options.data, options.prompts)
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        ways = list_ways(options.batch_tokens, Path(folder))
        vectors = {way.name: way.encode(list(texts.values())) for way in ways}
        seconds = measure(ways, texts, options.rounds)
    exact = vectors["float32"]
    rows = evidence(options.data, texts)
    print(f"{len(texts)} prompts, one thread, {options.batch_tokens} tokens a batch, best of {options.rounds} rounds\n")
    print("| way | prompts/s | speed | lowest cosine | mean cosine | largest change of a value | mean change |")
    print("|---|---|---|---|---|---|---|")
    for way in ways:
        cosines = (vectors[way.name] * exact).sum(axis=1)
        change = np.abs(values(texts, vectors[way.name], rows) - values(texts, exact, rows))
        speed = seconds["float32"] / seconds[way.name]
        print(
            f"| {way.name} | {len(texts) / seconds[way.name]:.1f} | {speed:.2f} | {cosines.min():.5f} "
            f"| {cosines.mean():.5f} | {change.max():.4f} | {change.mean():.4f} |"
        )
    return 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of deprecations; a caller's own log is as before afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def sample(folder: Path, count: int) -> dict[str, str]:
    """Return `count` prompts with outcomes by name, drawn with a fixed seed."""
    prompts: dict[str, str] = json.loads((folder / "prompts.json").read_text("utf-8"))
    known = sorted({name for name, _, _ in _rows(folder)} & prompts.keys())
    chosen = np.random.default_rng(0).choice(known, size=min(count, len(known)), replace=False)
    return {str(name): prompts[str(name)] for name in chosen}


def evidence(folder: Path, texts: dict[str, str]) -> list[Cell]:
    """Return the outcomes of every second prompt, all versions and policies."""
    half = set(list(texts)[::2])
    cells: dict[tuple[str, str, int], Cell] = {}
    for name, (policy, version), rate in _rows(folder):
        if name in half:
            cells[name, policy, version] = Cell("t", policy, name, name, version, rate * 10, 10, 1)
    return list(cells.values())


def values(texts: dict[str, str], vectors: Float32Array, rows: list[Cell]) -> Float32Array:
    """Return the Gaussian process's values of the other half of the prompts, for the first policy and version."""
    features = dict(zip(texts, vectors, strict=True))
    asked = list(texts)[1::2]
    first = min(rows, key=lambda row: (row.policy, row.version))
    question = Question((first.team, first.policy), first.version, asked, features, [[] for _ in asked], [])
    fit = GaussianProcess(vectors.shape[1]).fit(Context(rows, features))
    return fit.values(question).values.astype(np.float32)


def _rows(folder: Path) -> list[tuple[str, tuple[str, int], float]]:
    """Return (prompt's name, (policy, version), success rate) of every outcome."""
    lines = (folder / "context.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [
        (f"{row['dataset']}_{row['id']}", (row["model"], int(row["step"])), (row["score"] + 1) / 2) for row in found
    ]


def measure(ways: Sequence[Way], texts: dict[str, str], rounds: int) -> dict[str, float]:
    """Return the best processor time of each way over rounds that alternate."""
    best = dict.fromkeys((way.name for way in ways), float("inf"))
    for _ in range(rounds):
        for way in ways:
            start = time.process_time()
            way.encode(list(texts.values()))
            best[way.name] = min(best[way.name], time.process_time() - start)
    return best


def list_ways(batch_tokens: int, folder: Path) -> list[Way]:
    """Return float32 first, then the others that can run here."""
    import torch  # noqa: PLC0415  seconds to import: --help answers without it

    exact = MiniLM(placement=Placement(batch_tokens=batch_tokens))
    quick = MiniLM(placement=Placement(precision="bfloat16", batch_tokens=batch_tokens))
    eight = MiniLM(placement=Placement(batch_tokens=batch_tokens))
    for encoder in (exact, quick, eight):
        encoder.load()
    quantize: Any = torch.ao.quantization.quantize_dynamic
    eight._model = quantize(  # noqa: SLF001  a way that the service does not offer
        eight._model,  # noqa: SLF001  the same
        {torch.nn.Linear},
        dtype=torch.qint8,
    )
    ways = [
        Way("float32, texts as they come, 32 at a time", lambda texts: _unsorted(exact, texts)),
        Way("float32", exact.encode),
        Way("bfloat16", quick.encode),
        Way("torch dynamic int8", eight.encode),
    ]
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        ways += _onnx(batch_tokens, folder)
    return ways


def _unsorted(encoder: MiniLM, texts: Sequence[str]) -> Float32Array:
    """Encode as a plain loop over batches of 32 would, in the order of receipt."""
    settled = encoder.placement
    encoder.placement = replace(settled, batch_tokens=10**9)
    parts = [encoder.encode(texts[start : start + 32]) for start in range(0, len(texts), 32)]
    encoder.placement = settled
    return np.concatenate(parts)


def _onnx(batch_tokens: int, folder: Path) -> list[Way]:
    """Export the model and run it in ONNX Runtime, as it is and with int8 weights per tensor and per channel."""
    import onnxruntime  # noqa: PLC0415  optional
    import torch  # noqa: PLC0415  as above
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415  optional

    exported = MiniLM()  # one of its own: the exporter leaves a model behind that computes something else
    exported.load()
    model, tokenizer = exported._model, exported._tokenizer  # noqa: SLF001  a way that the service does not offer

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, tokens: Any, mask: Any) -> Any:
            return self.inner(input_ids=tokens, attention_mask=mask).last_hidden_state

    one = torch.ones(2, 8, dtype=torch.long)
    axes = {name: {0: "batch", 1: "tokens"} for name in ("tokens", "mask", "states")}
    paths = {name: folder / f"{place}.onnx" for place, name in enumerate(("", " int8", " int8 per channel"))}
    torch.onnx.export(
        States(),
        (one, one),
        str(paths[""]),
        input_names=["tokens", "mask"],
        output_names=["states"],
        dynamic_axes=axes,
        dynamo=False,
    )
    quantize_dynamic(paths[""], paths[" int8"], weight_type=QuantType.QInt8)
    quantize_dynamic(paths[""], paths[" int8 per channel"], weight_type=QuantType.QInt8, per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def way(name: str, path: Path) -> Way:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def encode(texts: Sequence[str]) -> Float32Array:
            rows = tokenizer(list(texts), truncation=True, max_length=MINILM_TOKENS)["input_ids"]
            vectors = np.empty((len(rows), MiniLM.width), dtype=np.float32)
            for places in plan([len(ids) for ids in rows], batch_tokens):
                mask = np.zeros((len(places), max(len(rows[place]) for place in places)), dtype=np.int64)
                tokens = mask.copy()
                for row, place in enumerate(places):
                    tokens[row, : len(rows[place])], mask[row, : len(rows[place])] = rows[place], 1
                states = session.run(None, {"tokens": tokens, "mask": mask})[0]
                means = (states * mask[:, :, None]).sum(axis=1)
                vectors[places] = means / np.linalg.norm(means, axis=1, keepdims=True)
            return vectors

        return Way(f"ONNX Runtime{name}", encode)

    return [way(name, path) for name, path in paths.items()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prior.encoders", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with prompts.json and context.jsonl")
    parser.add_argument("--prompts", type=int, default=128, help="prompts to encode (default: 128)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the best counts (default: 5)")
    parser.add_argument("--batch-tokens", type=int, default=CPU_BATCH_TOKENS, help="tokens that go through at once")
    return parser


if __name__ == "__main__":
    sys.exit(main())
