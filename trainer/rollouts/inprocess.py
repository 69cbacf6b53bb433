"""Rollouts from transformers in this process, for machines without a vLLM build. Import it only to use it: needs torch.

The same two protocols as the servers: it generates under a version and takes published exports. All prompts that wait
when the thread is free go through the model together: one pass over the distinct prompts, padded on the left, then one
token a pass for all their samples, with a key-value cache that ended samples leave.

A group's samples follow from its seed alone, whatever it is batched with: its random numbers are its own, one per sample
and position. The sums of a matrix product may differ in the last bit with the shape of the batch, so log-probabilities
agree to rounding, and a sample differs only where a draw falls within rounding of the edge between two tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.batching import Coalescer
from trainer.errors import GenerationFailed
from trainer.rollouts.vllm import Counts
from trainer.types import Sample, Sampling
from trainer.weights.exports import KEEP_EXPORTS, prune, require_stable

MOST_WAITING = 4096
"""Groups that one batch may take; more are split by `MOST_LOGITS` and `MOST_TOKENS` long before."""
MOST_LOGITS = 2**25
"""Rows x vocabulary of a batch: 128 MB in float32, and as much again twice while a token is drawn."""
MOST_TOKENS = 2**18
"""Rows x longest sequence of a batch, which bounds the cache: 0.7 GB at 28 layers of 128 key-value channels in bfloat16."""
SPARSE = 0.5
"""Share of live rows below which ended ones are taken out of a batch: the copy of the cache then pays within a few tokens."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Wanted:
    prompt_ids: tuple[int, ...]
    count: int
    sampling: Sampling
    version: int
    seed: int

    def together(self) -> Hashable:
        """Return what prompts of one batch have in common."""
        return self.sampling, self.version

    @property
    def longest(self) -> int:
        """Most tokens of a row, prompt and completion."""
        return len(self.prompt_ids) + self.sampling.max_tokens


class InProcessGenerator:
    """Obeys `trainer.types.Generator` and `trainer.types.WeightPublisher`. Nothing is loaded before the first publish."""

    def __init__(self, *, device: str = "cpu", dtype: torch.dtype = torch.float32, keep: int = KEEP_EXPORTS) -> None:
        self.counts = Counts()
        self._device = device
        self._dtype = dtype
        self._keep = keep
        self._version: int | None = None
        self._loaded: dict[str, bytes] = {}
        self._model: Any = None
        self._tokenizer: Any = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")
        self._waiting = Coalescer[_Wanted, list[Sample]](self._together, most=MOST_WAITING, key=_Wanted.together)

    async def publish(self, directory: Path, version: int) -> None:
        """Load model and tokenizer of `directory` and name them `version`.

        Raises:
            WeightUpdateFailed: the export is not complete.
        """
        require_stable(directory)
        await self._run(lambda: self._load(directory, version))
        prune(directory.parent, keep=self._keep)

    async def generate(
        self, prompt_ids: Sequence[int], *, count: int, sampling: Sampling, version: int, seed: int
    ) -> list[Sample]:
        """Return `count` samples of one prompt under weights of `version` or later, drawn together with whatever waits.

        Raises:
            GenerationFailed: only an older version is loaded, or prompt and completion do not fit the model.
        """
        wanted = _Wanted(tuple(prompt_ids), count, sampling, version, seed)
        samples = await self._waiting.ask(wanted)
        self.counts.calls += 1
        self.counts.samples += count
        self.counts.tokens += sum(len(sample.token_ids) for sample in samples)
        return samples

    async def close(self) -> None:
        """Wait for the batch that is under way, forget what waits, and release the model."""
        await self._waiting.close()
        self._thread.shutdown(cancel_futures=True)
        self._model = None

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _together(self, wanted: list[_Wanted]) -> Sequence[list[Sample] | Exception]:
        """Answer each group with its samples, or with why it has none."""
        return await self._run(lambda: self._answers(wanted))

    def _load(self, directory: Path, version: int) -> None:
        """Put new weights into the model at hand where the export differs in nothing else, or load all of it."""
        described = {path.name: path.read_bytes() for path in sorted(directory.glob("*.json"))}
        if self._model is None or described != self._loaded or not self._take(directory):
            model = AutoModelForCausalLM.from_pretrained(directory, dtype=self._dtype, local_files_only=True)
            self._model = model.to(self._device).eval()
            self._tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            self._loaded = described
        self._version = version

    def _take(self, directory: Path) -> bool:
        """Copy weights whose names are the model's own; False where transformers would have to rename or tie some."""
        files = sorted(directory.glob("*.safetensors"))
        weights = {name: value for file in files for name, value in load_file(file).items()}
        if weights.keys() != self._model.state_dict().keys():
            return False
        self._model.load_state_dict(weights)
        return True

    def _answers(self, wanted: Sequence[_Wanted]) -> list[list[Sample] | Exception]:
        answers: dict[int, list[Sample] | Exception] = {}
        fitting: list[int] = []
        for place, group in enumerate(wanted):
            problem = self._obstacle(group)
            if problem:
                answers[place] = GenerationFailed(problem)
            elif group.count == 0:
                answers[place] = []
            else:
                fitting.append(place)
        for batch in self._batches(wanted, fitting):
            answers |= zip(batch, self._batch([wanted[place] for place in batch]), strict=True)
        return [answers[place] for place in range(len(wanted))]

    def _obstacle(self, wanted: _Wanted) -> str:
        """Say why a group cannot be generated for; empty if it can."""
        if self._version is None or self._version < wanted.version:
            return f"version {self._version} is loaded in this process, not {wanted.version} or a later one"
        longest = getattr(self._model.config, "max_position_embeddings", None)
        if longest is not None and wanted.longest > longest:
            return (
                f"a prompt of {len(wanted.prompt_ids)} tokens leaves no room for {wanted.sampling.max_tokens} more in a "
                f"model of {longest} positions; shorten it, leave it out, or lower rollouts.max_tokens"
            )
        return ""

    def _batches(self, wanted: Sequence[_Wanted], places: Sequence[int]) -> Iterator[list[int]]:
        """Cut groups, longest prompt first, into batches within the bounds; a group is never cut."""
        batch: list[int] = []
        rows = 0
        for place in sorted(places, key=lambda place: -wanted[place].longest):
            more = rows + wanted[place].count
            longest = wanted[batch[0]].longest if batch else 0
            if batch and (more * self._model.config.vocab_size > MOST_LOGITS or more * longest > MOST_TOKENS):
                yield batch
                batch, more = [], wanted[place].count
            batch.append(place)
            rows = more
        if batch:
            yield batch

    @torch.inference_mode()
    def _batch(self, groups: Sequence[_Wanted]) -> list[list[Sample]]:
        """Return the samples of groups that share sampling parameters, under the weights that are loaded."""
        sampling, version = groups[0].sampling, self._version
        assert version is not None  # noqa: S101 - `_obstacle` has looked; new weights wait for this thread
        noise = torch.cat([_noise(group) for group in groups]).to(self._device)
        tokens, logprobs = self._sample(groups, sampling, noise)
        samples = iter(self._finish(row, own, version) for row, own in zip(tokens, logprobs, strict=True))
        return [[next(samples) for _ in range(group.count)] for group in groups]

    def _sample(
        self, groups: Sequence[_Wanted], sampling: Sampling, noise: torch.Tensor
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Return per row its tokens and the log-probabilities they were drawn with, whatever followed its end included."""
        rows = _Rows.prefilled(self._model, groups, self._device)
        tokens = torch.full(noise.shape, self._tokenizer.eos_token_id, device=self._device)
        logprobs = torch.zeros(noise.shape, device=self._device)
        rest = torch.arange(len(noise), device=self._device)
        going = torch.ones(len(noise), dtype=torch.bool, device=self._device)
        for position in range(sampling.max_tokens):
            ids, own = _choose(rows.logits, sampling, noise[rest, position])
            tokens[rest, position], logprobs[rest, position] = ids, own
            going &= ids != self._tokenizer.eos_token_id
            count = int(going.sum())
            if count == 0 or position + 1 == sampling.max_tokens:
                break
            if count <= SPARSE * len(rest):
                rows.keep(going)
                ids, rest, going = ids[going], rest[going], going[going]
            rows.extend(ids)
        return tokens.tolist(), logprobs.tolist()

    def _finish(self, tokens: list[int], logprobs: list[float], version: int) -> Sample:
        """Cut a row after its end-of-sequence token."""
        end = self._tokenizer.eos_token_id
        stopped = end in tokens
        length = tokens.index(end) + 1 if stopped else len(tokens)
        return Sample(
            token_ids=tuple(tokens[:length]),
            logprobs=tuple(logprobs[:length]),
            text=self._tokenizer.decode(tokens[:length], skip_special_tokens=True),
            finish_reason="stop" if stopped else "length",
            version=version,
        )


class _Rows:
    """The rows of a batch between two tokens: cache, attention mask, positions, and the logits of what comes next."""

    def __init__(
        self, model: Any, cache: Any, mask: torch.Tensor, positions: torch.Tensor, logits: torch.Tensor
    ) -> None:
        self._model = model
        self._cache = cache
        self._mask = mask
        self._positions = positions
        self.logits = logits

    @classmethod
    def prefilled(cls, model: Any, groups: Sequence[_Wanted], device: str) -> _Rows:
        """Run each group's prompt once and return a row per sample."""
        longest = max(len(group.prompt_ids) for group in groups)
        ids = torch.zeros(len(groups), longest, dtype=torch.long)
        mask = torch.zeros(len(groups), longest, dtype=torch.long)
        for row, group in enumerate(groups):
            ids[row, longest - len(group.prompt_ids) :] = torch.tensor(group.prompt_ids)
            mask[row, longest - len(group.prompt_ids) :] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        counts = torch.tensor([group.count for group in groups])
        copies = torch.repeat_interleave(torch.arange(len(groups)), counts).to(device)
        mask, positions = mask.to(device), positions.to(device)
        answer = model(ids.to(device), attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
        answer.past_key_values.reorder_cache(copies)
        return cls(
            model, answer.past_key_values, mask[copies], positions[copies, -1], answer.logits[copies, -1].float()
        )

    def extend(self, ids: torch.Tensor) -> None:
        """Append a token to each row, ids of shape (rows,)."""
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
        self._positions = self._positions + 1
        answer = self._model(
            ids[:, None],
            attention_mask=self._mask,
            position_ids=self._positions[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self.logits = answer.logits[:, -1].float()

    def keep(self, going: torch.Tensor) -> None:
        """Leave out the other rows, going of shape (rows,)."""
        self._cache.reorder_cache(going.nonzero()[:, 0])
        self._mask, self._positions = self._mask[going], self._positions[going]


def _noise(wanted: _Wanted) -> torch.Tensor:
    """Return a group's own random numbers in [0, 1), one per sample and position: they follow from its seed alone."""
    return torch.rand(
        wanted.count,
        wanted.sampling.max_tokens,
        generator=torch.Generator().manual_seed(wanted.seed),
        dtype=torch.float64,
    )


def _choose(logits: torch.Tensor, sampling: Sampling, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token per row and return it with its log-probability, both (rows,).

    The likeliest at temperature 0, else from the smallest set of mass top_p at that temperature, by inversion: the first
    token at which the cumulative probability exceeds the row's random number. Summed in float64, so that a token without
    probability is never drawn.
    """
    if sampling.temperature == 0.0:
        ids = logits.argmax(-1, keepdim=True)
        return ids[:, 0], torch.log_softmax(logits, -1).gather(-1, ids)[:, 0]
    probabilities = torch.softmax(logits / sampling.temperature, -1)
    if sampling.top_p < 1.0:
        ranked, order = probabilities.sort(-1, descending=True)
        outside = ranked.cumsum(-1) - ranked >= sampling.top_p
        kept = torch.zeros_like(probabilities).scatter(-1, order, ranked.masked_fill(outside, 0.0))
        probabilities = kept / kept.sum(-1, keepdim=True)
    mass = probabilities.double().cumsum(-1)
    ids = torch.searchsorted(mass, noise[:, None] * mass[:, -1:], right=True)
    return ids[:, 0], probabilities.gather(-1, ids).log()[:, 0]
