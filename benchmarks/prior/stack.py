"""The V0-shaped stack with random weights: prompts per second against the bare encoder in the same run, and memory.

    python -m benchmarks.prior.stack --device cuda          # the published sizes, batches of 1 to 512
    python -m benchmarks.prior.stack --device cpu --tiny    # a smoke test

Speed does not depend on the weights' values. The backbone has the sizes of Qwen3-Embedding-0.6B, the adapter those of
V0's checkpoint; texts are random tokens whose lengths are spread like those of mathematics prompts. Three things are
timed for each batch size, alternating: the bare backbone on token batches that are padded to their longest; the
service's encoder from texts to features, tokenizer, sorting, adapter and copies included; and the heads that `--heads`
names, of the package's own sizes, on 256 rows of context. The ratio is the second to the first.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from services.prior_api.encoders.placement import Placement
from services.prior_api.heads.base import Float32Array
from services.prior_api.heads.tabicl import CHECKPOINT, TabICL
from services.prior_api.heads.tabpfn import TabPFN, locate
from services.prior_api.heads.tabular import Classifier
from services.prior_api.weights import Weights

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
PUBLISHED: dict[str, int] = {
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "max_position_embeddings": 32_768,
}
"""Of Qwen3-Embedding-0.6B; its vocabulary of 151,669 is cut to 20,000, which costs memory but no time to look up."""
TINY = PUBLISHED | {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
TINY |= {"head_dim": 16, "intermediate_size": 128}
WORDS = 20_000
LENGTHS = (4.3, 0.6, 8, 1024)
"""Mean and deviation of the logarithm, and bounds, of a prompt's length in tokens: about 90 on average."""
CONTEXT_ROWS = 256


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line for each batch size."""
    options = _parser().parse_args(arguments)
    placement = Placement.choose(options.device, options.precision, options.threads, options.batch_tokens)
    with tempfile.TemporaryDirectory() as folder:
        encoder = build(Path(folder), placement, tiny=options.tiny)
        heads = {name: in_context(name, Path(folder), placement.device) for name in options.heads}
        rng = np.random.default_rng(0)
        print(f"{card(placement.device)}, {placement.precision}, {placement.batch_tokens} tokens a batch")
        columns = "".join(f" {name}, ms |" for name in heads)
        print(f"\n| prompts | bare encoder, prompts/s | encoder of the service | ratio |{columns} memory, GB |")
        print("|---|---|---|---|---|" + "---|" * len(heads))
        for size in options.sizes:
            print(line(encoder, heads, texts(rng, size), options.rounds), flush=True)
    return 0


def line(encoder: Any, heads: Mapping[str, Callable[[Float32Array], None]], prompts: list[str], rounds: int) -> str:
    """Time one batch size; the best of the rounds counts, after one that does not."""
    rows = encoder._tokenizer(prompts, truncation=True, max_length=encoder.max_tokens)["input_ids"]  # noqa: SLF001  the bare model has no interface of its own
    features = encoder.encode(prompts)
    steps: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(encoder, rows),
        "service": lambda: encoder.encode(prompts),
    }
    steps |= {name: functools.partial(ask, features) for name, ask in heads.items()}
    best = dict.fromkeys(steps, float("inf"))
    for turn in range(rounds + 1):
        for name, step in steps.items():
            taken = timed(step, encoder.placement.device)
            best[name] = min(best[name], taken if turn else float("inf"))
    columns = "".join(f" {1000 * best[name]:.0f} |" for name in heads)
    return (
        f"| {len(prompts)} | {len(prompts) / best['bare']:.1f} | {len(prompts) / best['service']:.1f} "
        f"| {best['bare'] / best['service']:.2f} |{columns} {memory_gb(encoder.placement.device):.2f} |"
    )


def bare(encoder: Any, rows: Sequence[Sequence[int]]) -> None:
    """Run the backbone alone, in the order of receipt, in batches that hold as many padded tokens as the service's."""
    import torch  # noqa: PLC0415  seconds to import: --help answers without it

    step = max(1, encoder.placement.batch_tokens // max(len(ids) for ids in rows))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        longest = max(len(ids) for ids in part)
        tokens, mask = np.zeros((2, len(part), longest), dtype=np.int64)
        for row, ids in enumerate(part):
            tokens[row, longest - len(ids) :], mask[row, longest - len(ids) :] = ids, 1
        with torch.inference_mode():
            inputs = [torch.from_numpy(array).to(encoder.placement.device) for array in (tokens, mask)]
            encoder._model(input_ids=inputs[0], attention_mask=inputs[1], use_cache=False)  # noqa: SLF001  as above


def timed(step: Callable[[], object], device: str) -> float:
    """Return seconds on the wall; on a GPU, until it has finished."""
    import torch  # noqa: PLC0415  as above

    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def texts(rng: np.random.Generator, count: int) -> list[str]:
    """Return `count` texts of random words, one token each."""
    mean, deviation, least, most = LENGTHS
    lengths = np.clip(np.exp(rng.normal(mean, deviation, count)), least, most).astype(int)
    return [" ".join(f"w{word}" for word in rng.integers(0, WORDS, length)) for length in lengths]


def build(folder: Path, placement: Placement, *, tiny: bool) -> Any:
    """Write tokenizer, backbone and checkpoint as the real ones are written, and load them as the service does."""
    import torch  # noqa: PLC0415  as above
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415  the same
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast  # noqa: PLC0415  the same

    from services.prior_api.encoders.v0 import CHECKPOINT as V0_CHECKPOINT  # noqa: PLC0415  imports torch
    from services.prior_api.encoders.v0 import V0  # noqa: PLC0415  the same
    from services.prior_api.encoders.v0_adapter import Adapter, Shape  # noqa: PLC0415  the same

    words = {f"w{word}": word for word in range(WORDS)} | {"[PAD]": WORDS}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[PAD]"))  # noqa: S106  a word, no password
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[PAD]")  # noqa: S106  as above
    fast.save_pretrained(folder)
    sizes = TINY if tiny else PUBLISHED
    (folder / "config.json").write_text(json.dumps({**sizes, "vocab_size": WORDS + 1, "model_type": "qwen3"}))
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16).save_pretrained(folder)
    adapter = Adapter(Shape(input_width=sizes["hidden_size"]))
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    state = {f"adapter_layer.{name}": value for name, value in adapter.state_dict().items()}
    torch.save({"model_state_dict": state}, folder / V0_CHECKPOINT)
    encoder = V0(Weights(str(folder)), Weights(str(folder)), placement)
    encoder.load()
    return encoder


def in_context(name: str, folder: Path, device: str) -> Callable[[Float32Array], None]:
    """Return what asks a head of the package's own sizes, random weights, about features with random context."""
    path = WEIGHTS[name](folder)
    classifier: Classifier = (
        TabICL(Weights(str(path)), device=device, estimators=4)
        if name == "tabicl"
        else TabPFN(*locate(str(path)), device=device, estimators=4)
    )
    classifier.load()
    rng = np.random.default_rng(1)
    labels = np.arange(CONTEXT_ROWS) % 2

    def ask(features: Float32Array) -> None:
        context = rng.normal(size=(CONTEXT_ROWS, features.shape[1])).astype(np.float32)
        classifier.probabilities(context, labels, features)

    return ask


def _tabicl(folder: Path) -> Path:
    import torch  # noqa: PLC0415  as above
    from tabicl._model.tabicl import TabICL as Model  # noqa: PLC0415  an extra

    path = folder / CHECKPOINT
    torch.save({"config": {}, "state_dict": Model().state_dict()}, path)
    return path


def _tabpfn(folder: Path) -> Path:
    import torch  # noqa: PLC0415  as above
    from tabpfn.architectures.tabpfn_v2_5 import TabPFNV2p5Config, get_architecture  # noqa: PLC0415  an extra

    config = TabPFNV2p5Config(max_num_classes=10, num_buckets=5000)
    model = get_architecture(config)
    path = folder / "tabpfn-v2.5-classifier-v2.5_random.ckpt"
    torch.save({"config": asdict(config), "state_dict": model.state_dict(), "architecture_name": "base"}, path)
    return path


WEIGHTS: dict[str, Callable[[Path], Path]] = {"tabicl": _tabicl, "tabpfn": _tabpfn}


def card(device: str) -> str:
    """Name the device."""
    import torch  # noqa: PLC0415  as above

    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"


def memory_gb(device: str) -> float:
    """Return the most memory held so far: on the GPU, or by this process."""
    import torch  # noqa: PLC0415  as above

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prior.stack", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU (default: 1)")
    parser.add_argument("--batch-tokens", type=int, help="tokens that go through at once (default: by device)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="prompts at a time (default: 1 to 512)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the best counts (default: 5)")
    parser.add_argument("--heads", nargs="*", choices=list(WEIGHTS), default=[], help="time these too; extras")
    parser.add_argument("--tiny", action="store_true", help="two small layers instead of the published sizes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
