"""Use cases of the prior service: values, evidence, prompts, policies. Commits nothing itself; holds no mathematics.

A value never fails for want of knowledge. A head that this service does not run is stood in for by the first that it
does; where a head finds no answer the prompt's own history gives it, which is the running mean for prompts without one;
a prompt without features is judged by its identity alone. Each time the answer says so.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from rollout_budget.errors import Conflict
from rollout_budget.wire import (
    EvidenceAnswer,
    EvidenceRequest,
    ModelView,
    PolicyView,
    PriorModel,
    Prompt,
    PromptsAnswer,
    Value,
    ValuesAnswer,
    ValuesRequest,
)
from services.prior_api.features import FeatureCache
from services.prior_api.fits import Fits
from services.prior_api.heads import CONTROLS, Predictions, Predictor, Question
from services.prior_api.metrics import Metrics
from services.prior_api.quality import levels_of, quality
from services.prior_api.records import Cell, Policy, Text
from services.prior_api.repository import Repository, Transaction

NEAR_LEVELS = 64
"""Versions that the running mean looks at: further ones have no weight left."""
LISTED_POLICIES = 256
LISTED_VERSIONS = 1024
"""Most policies in a list and most versions of one policy: the newest."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Who answered what, resting on which evidence, and why it was not who was asked (empty: it was)."""

    predictor: Predictor
    predictions: Predictions
    evidence_version: int
    detail: str


class PriorService:
    """One instance per application."""

    def __init__(
        self,
        repository: Repository,
        features: FeatureCache,
        fits: Mapping[PriorModel, Fits],
        metrics: Metrics,
        *,
        model: ModelView,
        encoder: Callable[[], str],
        encode_wait_s: float,
    ) -> None:
        self._repository, self._features, self._fits, self._metrics = repository, features, fits, metrics
        self.model = model
        self._encoder = encoder
        self._encode_wait_s = encode_wait_s

    async def values(self, team: str, request: ValuesRequest) -> ValuesAnswer:
        """Predict success rates, and remember what was said so that evidence can score it.

        Raises:
            Conflict: a key is registered with another text.
            Unavailable: the database did not answer.
        """
        keys = [prompt.key for prompt in request.prompts]
        async with self._repository.begin() as transaction:
            await transaction.register(team, texts_of(request.prompts))
            hashes = await transaction.prompt_hashes(team, set(keys))
            evidence_version = await transaction.evidence_version(team)
            question = await self._question(transaction, team, request, hashes)
        if request.model in CONTROLS:
            control = CONTROLS[request.model]
            answer = _Answer(control, await self._ask(control, question), evidence_version, "")
        else:
            question.features.update(await self._features.get(set(hashes.values()), wait_s=self._encode_wait_s))
            shortfall = self._shortfall(keys, hashes, question)
            answer = await self._learned(team, request.model, evidence_version, question, shortfall)
        predictor, predictions = answer.predictor, answer.predictions
        values = [
            Value(
                key=key,
                value=float(predictions.values[place]),
                standard_error=float(predictions.standard_errors[place]),
                evidence_count=sum(cell.rows for cell in question.histories[place]),
            )
            for place, key in enumerate(keys)
        ]
        async with self._repository.begin() as transaction:
            given = {value.key: value.value for value in values}
            await transaction.give(team, request.policy, request.version, given)
        self._metrics.values.labels(predictor.name, str(bool(answer.detail)).lower()).inc(len(values))
        return ValuesAnswer(
            values=values,
            model=predictor.name,
            model_version=predictor.version,
            evidence_version=answer.evidence_version,
            degraded=bool(answer.detail),
            detail=answer.detail,
        )

    async def _question(
        self, transaction: Transaction, team: str, request: ValuesRequest, hashes: dict[str, str]
    ) -> Question:
        owner = Policy(team, request.policy, "private", 0)
        keys = [prompt.key for prompt in request.prompts]
        histories: dict[str, list[Cell]] = defaultdict(list)
        for cell in await transaction.cells(owner, keys=sorted(set(keys))):
            histories[cell.key].append(cell)
        return Question(
            owner=(team, request.policy),
            version=request.version,
            identities=[Cell(team, request.policy, key, hashes.get(key), 0, 0.0, 0, 0).identity for key in keys],
            features={},
            histories=[histories[key] for key in keys],
            levels=await transaction.levels(team, request.policy, near=request.version, most=NEAR_LEVELS),
        )

    def _shortfall(self, keys: Sequence[str], hashes: dict[str, str], question: Question) -> str:
        textless = sum(key not in hashes for key in keys)
        featureless = sum(identity not in question.features for identity in question.identities) - textless
        parts = []
        if textless:
            parts.append(f"{textless} of {len(keys)} prompts have no text")
        if featureless:
            parts.append(f"features of {featureless} of {len(keys)} prompts are not there (encoder: {self._encoder()})")
        return "; ".join(parts) + ": judged by their identity alone" if parts else ""

    async def _learned(
        self, team: str, model: PriorModel, evidence_version: int, question: Question, shortfall: str
    ) -> _Answer:
        """Ask the head, or what stands in for it."""
        name = model if model in self._fits else next(iter(self._fits))
        absent = "" if name == model else f"this service runs {', '.join(self._fits)}, not {model}"
        try:
            fit = await self._fits[name].get(team, evidence_version)
            predictions = await self._fits[name].answer(fit.predictor, question)
        except ArithmeticError as error:
            _log.warning("no answer", head=name, error=str(error))
            history = CONTROLS["history"]
            detail = "; ".join(filter(None, (absent, f"no answer from {name}: {error}")))
            return _Answer(history, await self._ask(history, question), evidence_version, detail)
        return _Answer(fit.predictor, predictions, fit.evidence_version, "; ".join(filter(None, (absent, shortfall))))

    async def _ask(self, control: Predictor, question: Question) -> Predictions:
        """Ask a control, in the threads of whichever head is there."""
        return await next(iter(self._fits.values())).answer(control, question)

    async def add_evidence(self, team: str, policy: str, request: EvidenceRequest) -> EvidenceAnswer:
        """Append evidence; all of a request or, if it raises, nothing of it.

        Raises:
            Conflict: an id, a prompt key or the policy was stated before with another body, text or scope.
            Unavailable: the database did not answer.
        """
        async with self._repository.begin() as transaction:
            await transaction.lock_policy(team, policy, request.scope, time.time())
            await transaction.register(team, texts_of(request.prompts))
            new = await transaction.add_evidence(team, policy, request.rows)
            await transaction.add_levels(team, policy, levels_of(new))
            evidence_version = await transaction.evidence_version(team)
        repeated = len(request.rows) - len(new)
        self._metrics.evidence.labels("stored").inc(len(new))
        self._metrics.evidence.labels("repeated").inc(repeated)
        return EvidenceAnswer(stored=len(new), repeated=repeated, evidence_version=evidence_version)

    async def register_prompts(self, team: str, prompts: Sequence[Prompt]) -> PromptsAnswer:
        """Store texts and begin to compute their features.

        Raises:
            Conflict: a key is registered with another text.
            Unavailable: the database did not answer.
        """
        async with self._repository.begin() as transaction:
            registered = await transaction.register(team, texts_of(prompts))
            hashes = await transaction.prompt_hashes(team, {prompt.key for prompt in prompts})
        found = await self._features.get(set(hashes.values()), wait_s=0.0)
        return PromptsAnswer(registered=registered, encoded=sum(item in found for item in hashes.values()))

    async def policies(self, team: str) -> list[PolicyView]:
        """Return the team's policies, each with its newest version."""
        async with self._repository.begin() as transaction:
            policies = (await transaction.own_policies(team))[:LISTED_POLICIES]
            return [await self._view(transaction, policy, most=1) for policy in policies]

    async def policy(self, team: str, policy: str) -> PolicyView:
        """Return one of the team's policies with its versions.

        Raises:
            NotFound: the team has no policy of that name.
        """
        async with self._repository.begin() as transaction:
            (found,) = await transaction.own_policies(team, policy)
            return await self._view(transaction, found, most=LISTED_VERSIONS)

    async def _view(self, transaction: Transaction, policy: Policy, *, most: int) -> PolicyView:
        levels = await transaction.levels(policy.team, policy.policy, most=most)
        scores = defaultdict(list)
        for score in await transaction.scores(policy.team, policy.policy):
            scores[score.version].append(score)
        return PolicyView(
            policy=policy.policy,
            scope=policy.scope,
            rows=policy.rows,
            versions=[quality(level, scores[level.version]) for level in levels],
        )


def texts_of(prompts: Iterable[Prompt]) -> dict[str, Text]:
    """Return the texts that came with a request, by key.

    Raises:
        Conflict: one key has two texts.
    """
    texts: dict[str, Text] = {}
    for prompt in prompts:
        if prompt.text is None:
            continue
        text = Text(hashlib.sha256(prompt.text.encode()).hexdigest(), prompt.text)
        if texts.setdefault(prompt.key, text) != text:
            raise Conflict(f"prompt key {prompt.key!r} has two texts in one request")
    return texts
