"""Rollouts from transformers in this process, for machines without a vLLM build. Import it only to use it: needs torch.

The same two protocols as the servers: it generates under a version and takes published exports. One prompt at a time, on
a thread of its own; correct and slow, which is what a fallback is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.errors import GenerationFailed
from trainer.rollouts.vllm import Counts
from trainer.types import Sample, Sampling
from trainer.weights.exports import KEEP_EXPORTS, prune, require_stable

Result = TypeVar("Result")


class InProcessGenerator:
    """Obeys `trainer.types.Generator` and `trainer.types.WeightPublisher`. Nothing is loaded before the first publish."""

    def __init__(self, *, device: str = "cpu", dtype: torch.dtype = torch.float32, keep: int = KEEP_EXPORTS) -> None:
        self.counts = Counts()
        self._device = device
        self._dtype = dtype
        self._keep = keep
        self._version: int | None = None
        self._model: Any = None
        self._tokenizer: Any = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")

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
        """Return `count` samples of one prompt under weight `version`.

        Raises:
            GenerationFailed: another version is loaded, or prompt and completion do not fit the model.
        """
        return await self._run(lambda: self._generate(prompt_ids, count, sampling, version, seed))

    async def close(self) -> None:
        """Wait for the prompt that is under way, forget those that wait, and release the model."""
        self._thread.shutdown(cancel_futures=True)
        self._model = None

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _load(self, directory: Path, version: int) -> None:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=self._dtype, local_files_only=True)
        self._model = model.to(self._device).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        self._version = version

    def _generate(
        self, prompt_ids: Sequence[int], count: int, sampling: Sampling, version: int, seed: int
    ) -> list[Sample]:
        if self._version != version:
            raise GenerationFailed(f"version {self._version} is loaded in this process, not {version}")
        longest = getattr(self._model.config, "max_position_embeddings", None)
        if longest is not None and len(prompt_ids) + sampling.max_tokens > longest:
            raise GenerationFailed(
                f"a prompt of {len(prompt_ids)} tokens leaves no room for {sampling.max_tokens} more in a model of "
                f"{longest} positions; shorten it, leave it out, or lower rollouts.max_tokens"
            )
        noise = torch.Generator(self._device).manual_seed(seed)
        tokens, logprobs = self._sample(prompt_ids, count, sampling, noise)
        samples = [self._finish(row, own, version) for row, own in zip(tokens.tolist(), logprobs.tolist(), strict=True)]
        self.counts.calls += 1
        self.counts.samples += count
        self.counts.tokens += sum(len(sample.token_ids) for sample in samples)
        return samples

    @torch.inference_mode()
    def _sample(
        self, prompt_ids: Sequence[int], count: int, sampling: Sampling, noise: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens and the log-probabilities they were drawn with, both (count, up to max_tokens)."""
        ids = torch.tensor([list(prompt_ids)] * count, device=self._device)
        ended = torch.zeros(count, dtype=torch.bool, device=self._device)
        cache, tokens, logprobs = None, [], []
        for _ in range(sampling.max_tokens):
            answer = self._model(ids, past_key_values=cache, use_cache=True)
            cache = answer.past_key_values
            ids, own = _choose(answer.logits[:, -1].float(), sampling, noise)
            tokens.append(ids)
            logprobs.append(own)
            ended |= ids[:, 0] == self._tokenizer.eos_token_id
            if bool(ended.all()):
                break
        return torch.cat(tokens, 1), torch.cat(logprobs, 1)

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


def _choose(logits: torch.Tensor, sampling: Sampling, noise: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token per row and return it with its log-probability, both (count, 1).

    The likeliest at temperature 0, else from the smallest set of mass top_p at that temperature.
    """
    if sampling.temperature == 0.0:
        ids = logits.argmax(-1, keepdim=True)
        return ids, torch.log_softmax(logits, -1).gather(-1, ids)
    probabilities = torch.softmax(logits / sampling.temperature, -1)
    if sampling.top_p < 1.0:
        ranked, order = probabilities.sort(-1, descending=True)
        outside = ranked.cumsum(-1) - ranked >= sampling.top_p
        kept = torch.zeros_like(probabilities).scatter(-1, order, ranked.masked_fill(outside, 0.0))
        probabilities = kept / kept.sum(-1, keepdim=True)
    ids = torch.multinomial(probabilities, 1, generator=noise)
    return ids, probabilities.gather(-1, ids).log()
