"""slime's generate hook, with groups of the allocator's size: a first wave, then more where more are worth it.

Needs `--n-samples-per-prompt 1`: to slime the group is one rollout that comes back as several samples. Each is drawn
and rewarded by slime's own functions; losses weigh each prompt the same.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from rollout_budget.errors import InvalidInput
from rollout_budget.integrations.slime.books import MARK, REWARD, SECTION, Books, Sample, books_of
from rollout_budget.session import Group


async def generate(
    args: Any,
    sample: Sample,
    sampling_params: dict[str, Any],
    evaluation: bool = False,  # noqa: FBT001, FBT002 - slime's signature
) -> Sample | list[Sample]:
    """Draw a prompt's group; for `--custom-generate-function-path`. Evaluations are slime's own, one rollout each.

    Returns:
        All samples of the group, with rewards and advantages. Without any budget, one that is in no loss.

    Raises:
        InvalidInput: slime's arguments do not go with it, or an outcome lies outside the declared range.
    """
    draw: Callable[..., Awaitable[Sample]] = import_module("slime.rollout.sglang_rollout").generate
    if evaluation:
        return await draw(args, sample, sampling_params)
    _check(args)
    books = await asyncio.to_thread(books_of, args)
    (group,) = await asyncio.to_thread(books.session.open, [books.prompt(sample)], version=books.version(sample))
    drawn: list[Sample] = []
    try:
        while group.want:
            wave = [_another(sample) for _ in range(group.want)]
            wave = list(await asyncio.gather(*(_drawn(draw, args, one, dict(sampling_params)) for one in wave)))
            drawn += wave
            _add(books, group, wave)
            await asyncio.to_thread(books.session.observe, [group])
    finally:
        await asyncio.shield(asyncio.to_thread(books.session.close, [group]))
    books.mark(group, [[one] for one in drawn])
    return drawn or [_blank(args, sample)]


async def reward(args: Any, sample: Sample | list[Sample], **more: Any) -> Any:
    """Return what the user's reward function says of a sample, or of each in a list; for `--custom-rm-path`.

    slime hands the samples of a group, even none, to the function as a list, while a function of the user's is for one.

    Raises:
        InvalidInput: the settings name no function.
    """
    path = (getattr(args, SECTION, None) or {}).get(REWARD)
    if not path:
        raise InvalidInput(f"name your reward function in the settings: {SECTION}: {{{REWARD}: your.module.function}}")
    module, _, name = str(path).rpartition(".")
    own: Callable[..., Awaitable[Any]] = getattr(import_module(module), name)
    if isinstance(sample, list):
        return list(await asyncio.gather(*(own(args, one, **more) for one in sample)))
    return await own(args, sample, **more)


def _check(args: Any) -> None:
    """Refuse what does not go with groups of our size.

    Raises:
        InvalidInput: with the argument to change.
    """
    if args.n_samples_per_prompt != 1:
        raise InvalidInput("groups of the allocator's size need --n-samples-per-prompt 1")
    for name in ("partial_rollout", "group_rm"):
        if getattr(args, name, False):
            raise InvalidInput(f"groups of the allocator's size do not go with --{name.replace('_', '-')}")


def _another(sample: Sample) -> Sample:
    """Return a sample to draw; all of a group are one rollout to slime."""
    other = copy.deepcopy(sample)
    other.rollout_id = sample.index
    return other


async def _drawn(draw: Callable[..., Awaitable[Sample]], args: Any, sample: Sample, params: dict[str, Any]) -> Sample:
    """Return the sample, drawn and rewarded by slime; one that slime aborts has no reward."""
    sample = await draw(args, sample, params)
    if sample.reward is None and sample.status.value != "aborted":
        sample.reward = await import_module("slime.rollout.rm_hub").async_rm(args, sample)
    return sample


def _add(books: Books, group: Group, wave: list[Sample]) -> None:
    outcomes = [one for one in map(books.outcome, wave) if one is not None]
    rewards = [one for one in map(books.reward, wave) if one is not None]
    tokens = sum(int(one.response_length) for one in wave)
    group.add(outcomes, rewards, lost=len(wave) - len(outcomes), tokens=tokens)


def _blank(args: Any, sample: Sample) -> Sample:
    """Return one token after the prompt, masked: slime cannot go on without a sample for each prompt."""
    blank = _another(sample)
    tokenizer = import_module("slime.rollout.sglang_rollout").GenerateState(args).tokenizer
    blank.tokens = [*tokenizer.encode(sample.prompt, add_special_tokens=False), int(tokenizer.eos_token_id)]
    blank.response, blank.response_length, blank.loss_mask = "", 1, [0]
    blank.rollout_log_probs, blank.reward, blank.remove_sample = [0.0], 0.0, True
    blank.status = type(sample.status)("completed")
    blank.metadata = {**(sample.metadata or {}), MARK: 0.0}
    return blank
