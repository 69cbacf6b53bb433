"""What of slime our hooks meet, made from its public definitions: samples, call sites, the two functions we call.

slime is not on PyPI and needs GPUs to import. Names, signatures and the order of calls are those of THUDM/slime:
`Sample` of slime/utils/types.py at 0d234f3e, rewards of slime/rollout/rm_hub/__init__.py at 0b420f1e, the rollout loop of slime/rollout/sglang_rollout.py at 0044b40d, the
conversion of slime/rollout/batch_builder.py at 68572249, the hooks' signatures of docs/en/get_started/customization.md
at 138eb428. Answers come from a seeded coin instead of an engine.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import sys
import types
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

PATH = "rollout_budget.integrations.slime."
RM = "slime.rollout.rm_hub."
HOOKS = {
    "custom_reward_post_process_path": PATH + "post_process_rewards",
    "custom_rollout_log_function_path": PATH + "log_rollout_data",
    "rollout_all_samples_process_path": PATH + "book_all_samples",
}


class Status(Enum):
    """slime's states of a sample."""

    PENDING = "pending"
    COMPLETED = "completed"
    TRUNCATED = "truncated"
    ABORTED = "aborted"
    FAILED = "failed"


@dataclass
class Sample:
    """The fields of slime's sample that a text-only training fills in."""

    group_index: int | None = None
    index: int | None = None
    prompt: str | list[dict[str, str]] = ""
    tokens: list[int] = field(default_factory=list)
    response: str = ""
    response_length: int = 0
    label: str | None = None
    reward: float | dict[str, Any] | None = None
    loss_mask: list[int] | None = None
    weight_versions: list[str] = field(default_factory=list)
    rollout_log_probs: list[float] | None = None
    remove_sample: bool = False
    status: Status = Status.PENDING
    metadata: dict[str, Any] = field(default_factory=dict)
    rollout_id: int | None = None


class Tokenizer:
    """Has the two things of a tokenizer that a masked sample needs."""

    eos_token_id = 0

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return a token id for each character."""
        assert not add_special_tokens
        return [ord(letter) for letter in text]


def install(chance: Callable[[Any], float], failing: Callable[[Any], bool] = lambda _: False) -> None:
    """Put `slime.rollout.sglang_rollout` and `slime.rollout.rm_hub` in place.

    Args:
        chance: of a correct answer, by sample.
        failing: whether slime aborts the sample instead.
    """
    coin = np.random.default_rng(0)

    async def generate(args: Any, sample: Sample, sampling_params: dict[str, Any]) -> Sample:
        assert sample.status is Status.PENDING
        sampling_params["max_new_tokens"] -= sample.response_length  # slime changes its argument
        await asyncio.sleep(0)
        sample.tokens, sample.response_length = [1, 2, 3], 2
        sample.status = Status.ABORTED if failing(sample) else Status.COMPLETED
        sample.response = "yes" if coin.random() < chance(sample) else "no"
        return sample

    async def async_rm(args: Any, sample: Sample) -> float:
        if args.custom_rm_path is not None:
            return float(await load(args.custom_rm_path)(args, sample))
        return float(sample.response == "yes")

    async def batched_async_rm(args: Any, samples: list[Sample]) -> list[float]:
        if args.custom_rm_path is not None:  # called for none at all, too
            return list(await load(args.custom_rm_path)(args, samples))
        return list(await asyncio.gather(*(async_rm(args, one) for one in samples)))

    package, rollout = types.ModuleType("slime"), types.ModuleType("slime.rollout")
    sglang, rm_hub = types.ModuleType("slime.rollout.sglang_rollout"), types.ModuleType("slime.rollout.rm_hub")
    vars(sglang).update(generate=generate, GenerateState=lambda _: Namespace(tokenizer=Tokenizer()))
    vars(rm_hub).update(async_rm=async_rm, batched_async_rm=batched_async_rm)
    for module in (package, rollout, sglang, rm_hub):
        sys.modules[module.__name__] = module


@contextmanager
def installed(*how: Any) -> Iterator[None]:
    """`install` for a while."""
    before = dict(sys.modules)
    install(*how)
    try:
        yield
    finally:
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] == "slime":
                del sys.modules[name]


def arguments(**given: Any) -> Namespace:
    """Return slime's arguments, those of a small training unless said otherwise."""
    usual: dict[str, Any] = {
        "rollout_batch_size": 4,
        "n_samples_per_prompt": 4,
        "reward_key": None,
        "custom_generate_function_path": None,
        "custom_rm_path": None,
        "partial_rollout": False,
        "group_rm": False,
    }
    return Namespace(**{**usual, **HOOKS, **given})


def load(path: str) -> Callable[..., Any]:
    """Import by path, as slime does."""
    module, _, name = path.rpartition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


@dataclass
class Step:
    """What slime trains on and logs after one rollout."""

    samples: list[Sample]
    raw: list[float]
    rewards: list[float]
    log: dict[str, Any]
    drawn: int


class Rollouts:
    """slime's rollout loop over a data set of prompts, hooks by path."""

    def __init__(self, args: Namespace, prompts: list[str], keep: Callable[[list[Sample]], bool] | None = None) -> None:
        self.args = args
        self._prompts = prompts
        self._keep = keep or (lambda _: True)
        self._groups = 0
        self._samples = 0

    def step(self, rollout_id: int) -> Step:
        """Draw, filter, log and convert."""
        groups = asyncio.run(self._draw())
        data = [group for group in groups if self._keep(_flat(group))]
        load(self.args.rollout_all_samples_process_path)(self.args, groups, None)
        flat, extra = _flat(data), {"rollout/dynamic_filter/drop_zero_std": len(groups) - len(data)}
        skip = load(self.args.custom_rollout_log_function_path)(rollout_id, self.args, flat, extra, 0.5)
        assert skip is False
        raw, rewards = load(self.args.custom_reward_post_process_path)(self.args, flat)
        assert len(raw) == len(rewards) == len(flat)
        for sample in flat:
            assert sample.loss_mask is None or len(sample.loss_mask) == sample.response_length
        return Step(flat, raw, rewards, extra, len(_flat(groups)))

    async def _draw(self) -> list[list[Any]]:
        groups = [self._group() for _ in range(self.args.rollout_batch_size)]
        drawn = await asyncio.gather(*(asyncio.gather(*map(self._generate_and_rm, group)) for group in groups))
        for group in drawn:
            assert len(group) == self.args.n_samples_per_prompt
        return [list(group) for group in drawn]

    def _group(self) -> list[Sample]:
        prompt = Sample(prompt=self._prompts[self._groups % len(self._prompts)])
        group = []
        for _ in range(self.args.n_samples_per_prompt):
            sample = copy.deepcopy(prompt)
            sample.group_index, sample.index = self._groups, self._samples
            self._samples += 1
            group.append(sample)
        self._groups += 1
        return group

    async def _generate_and_rm(self, sample: Sample, *, evaluation: bool = False) -> Any:
        params = {"max_new_tokens": 8}
        path = self.args.custom_generate_function_path
        own = load(path or "slime.rollout.sglang_rollout.generate")
        more = {"evaluation": evaluation} if "evaluation" in inspect.signature(own).parameters else {}
        drawn = await own(self.args, sample, params, **more)
        if isinstance(drawn, list):
            if not any(one.status is Status.ABORTED for one in drawn):
                need = [one for one in drawn if one.reward is None]
                for one, found in zip(need, await load(RM + "batched_async_rm")(self.args, need), strict=False):
                    one.reward = found
        elif drawn.reward is None and drawn.status is not Status.ABORTED:
            drawn.reward = await load(RM + "async_rm")(self.args, drawn)
        return drawn


def _flat(samples: list[Any]) -> list[Sample]:
    while samples and isinstance(samples[0], list):
        samples = [one for group in samples for one in group]
    return samples
