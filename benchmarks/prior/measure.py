"""Feeds a prior service over HTTP and scores what it answers. Every question gets a team, so no evidence leaks."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rollout_budget.client import PriorClient
from rollout_budget.wire import (
    EvidenceRequest,
    EvidenceRow,
    PriorModel,
    Prompt,
    PromptsRequest,
    ValuesAnswer,
    ValuesRequest,
)
from services.prior_api.evaluate import scores
from services.prior_api.evaluate.data import Key, Outcomes, Row
from services.prior_api.evaluate.scores import Scores, denoised
from services.prior_api.evaluate.splits import Protocol, Split
from services.prior_api.heads import Predictions

BATCH = 256
"""Rows or prompts in one request: a large training step."""
MODELS: tuple[PriorModel, ...] = ("gp", "history", "running_mean", "constant")


@dataclass(frozen=True, slots=True)
class Result:
    """Scores by model, averaged over keys; seconds of the first answer (with the fit) and of the second."""

    scores: dict[PriorModel, Scores]
    first_s: float
    again_s: float


async def register(client: PriorClient, outcomes: Outcomes, progress: Callable[[str], None]) -> None:
    """Register all prompts that rows speak of and whose texts are known, and wait until their features are there."""
    keys = [key for key in outcomes.prompts if key in outcomes.texts]
    began = time.perf_counter()
    encoded = -1
    while encoded < len(keys):
        encoded = 0
        for start in range(0, len(keys), BATCH):
            encoded += (
                await client.register_prompts(PromptsRequest(prompts=_prompts(keys[start : start + BATCH], outcomes)))
            ).encoded
        progress(f"{encoded} of {len(keys)} prompts encoded after {time.perf_counter() - began:.0f} s")
        if encoded < len(keys):
            await asyncio.sleep(2)


async def measure(client: PriorClient, outcomes: Outcomes, split: Split, protocol: Protocol) -> Result:
    """Run one protocol on one split: for every key feed its evidence to a new team and score its targets."""
    by_model: dict[PriorModel, list[Scores]] = defaultdict(list)
    seconds = []
    for key, targets in split.targets.items():
        team = client.for_team(f"{protocol.name}-{secrets.token_hex(6)}")
        await feed(team, protocol.support(outcomes, split, key), outcomes)
        request = _question(key, targets, outcomes, "gp")
        times = [time.perf_counter()]
        for _ in range(2):
            await team.values(request)
            times.append(time.perf_counter())
        seconds.append(np.diff(times))
        for model in MODELS:
            answer = await team.values(_question(key, targets, outcomes, model))
            by_model[model].append(_score(answer, targets, outcomes.rows[key], model))
    first, again = np.mean(seconds, axis=0)
    return Result({model: scores.mean(found) for model, found in by_model.items()}, float(first), float(again))


async def feed(client: PriorClient, rows: Sequence[Row], outcomes: Outcomes) -> None:
    """Send rows as evidence, with their texts."""
    by_policy: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_policy[row.policy].append(row)
    for policy, own in by_policy.items():
        for start in range(0, len(own), BATCH):
            part = own[start : start + BATCH]
            evidence = [
                EvidenceRow(
                    id=f"{row.version}/{row.prompt}",
                    key=row.prompt,
                    version=row.version,
                    successes=row.successes,
                    trials=row.trials,
                )
                for row in part
            ]
            prompts = _prompts(sorted({row.prompt for row in part}), outcomes)
            await client.add_evidence(policy, EvidenceRequest(rows=evidence, prompts=prompts))


def _question(key: Key, targets: Sequence[Row], outcomes: Outcomes, model: PriorModel) -> ValuesRequest:
    policy, version = key
    return ValuesRequest(
        policy=policy, version=version, prompts=_prompts([row.prompt for row in targets], outcomes), model=model
    )


def _score(answer: ValuesAnswer, targets: Sequence[Row], key_rows: Sequence[Row], model: PriorModel) -> Scores:
    if answer.degraded or answer.model != model:
        raise RuntimeError(f"{model} was asked, {answer.model} answered: {answer.detail}")
    truth = denoised(key_rows)
    predictions = Predictions(
        np.array([line.value for line in answer.values]), np.array([line.standard_error for line in answer.values])
    )
    return scores.score(predictions, targets, np.array([truth[row.prompt] for row in targets]))


def _prompts(keys: Sequence[str], outcomes: Outcomes) -> list[Prompt]:
    return [Prompt(key=key, text=outcomes.texts.get(key)) for key in keys]
