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
from services.prior_api import sharing
from services.prior_api.features import FeatureCache
from services.prior_api.fits import MAX_POLICIES, Fits
from services.prior_api.heads import CONTROLS, Predictions, Predictor, Question
from services.prior_api.metrics import Metrics
from services.prior_api.quality import quality
from services.prior_api.records import Known, Level, Policy, Scores, Standing, Text
from services.prior_api.repository import Repository, Transaction

NEAR_LEVELS = 64
"""Versions that the running mean looks at: further ones have no weight left."""
MAX_NAMES = 65_536
"""Text hashes by team and key kept in memory, 16 MB; they never change."""
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
        epsilon: float = sharing.EPSILON,
    ) -> None:
        self._repository, self._features, self._fits, self._metrics = repository, features, fits, metrics
        self.model = model
        self._encoder = encoder
        self._encode_wait_s, self._epsilon = encode_wait_s, epsilon
        self._names: dict[tuple[str, str], str] = {}

    async def values(self, team: str, request: ValuesRequest) -> ValuesAnswer:
        """Predict success rates, and remember what was said so that evidence can score it.

        Raises:
            Conflict: a key is registered with another text.
            Unavailable: the database did not answer.
        """
        keys = [prompt.key for prompt in request.prompts]
        await self._register(team, texts_of(request.prompts))
        async with self._repository.snapshot() as transaction:
            standing = await transaction.standing(team, MAX_POLICIES)
            hashes = await self._hashes(transaction, team, keys)
            question, counts = await self._question(transaction, team, request, hashes)
        if request.model in CONTROLS:
            control = CONTROLS[request.model]
            answer = _Answer(control, await self._ask(control, question), standing.version, "")
        else:
            places = {(team, text_hash) for text_hash in hashes.values()}
            vectors = await self._features.get(places, wait_s=self._encode_wait_s)
            question.features.update({text_hash: vector for (_, text_hash), vector in vectors.items()})
            shortfall = self._shortfall(keys, hashes, question)
            answer = await self._learned(team, request.model, standing, question, shortfall)
        predictor, predictions = answer.predictor, answer.predictions
        values = [
            Value(key=key, value=value, standard_error=error, evidence_count=counts.get(key, 0))
            for key, value, error in zip(
                keys, predictions.values.tolist(), predictions.standard_errors.tolist(), strict=True
            )
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

    async def _register(self, team: str, texts: Mapping[str, Text]) -> None:
        """Store those texts that this process has not seen stored; what is there already is not written again."""
        unknown = {key: text for key, text in texts.items() if self._names.get((team, key)) != text.hash}
        if unknown:
            async with self._repository.begin() as transaction:
                await transaction.register(team, unknown)
            self._learn_names(team, {key: text.hash for key, text in unknown.items()})

    async def _hashes(self, transaction: Transaction, team: str, keys: Iterable[str]) -> dict[str, str]:
        """Return the text hash of each key that has one; a text once stored never changes, so memory answers first."""
        wanted = set(keys)
        found = {key: name for key in wanted if (name := self._names.get((team, key))) is not None}
        if len(found) < len(wanted):
            stored = await transaction.prompt_hashes(team, wanted - found.keys())
            self._learn_names(team, stored)
            found |= stored
        return found

    def _learn_names(self, team: str, names: Mapping[str, str]) -> None:
        if len(self._names) + len(names) > MAX_NAMES:
            self._names.clear()
        self._names.update({(team, key): name for key, name in names.items()})

    async def _question(
        self, transaction: Transaction, team: str, request: ValuesRequest, hashes: dict[str, str]
    ) -> tuple[Question, dict[str, int]]:
        """Return what a head is asked, and by key how many rows the policy has of it."""
        keys = [prompt.key for prompt in request.prompts]
        known = await transaction.histories(team, request.policy, hashes, sorted(set(keys)))
        nothing = Known(0, [])
        question = Question(
            owner=(team, request.policy),
            version=request.version,
            identities=[hashes.get(key) or f"{team}\x00{key}" for key in keys],
            features={},
            histories=[known.get(key, nothing).cells for key in keys],
            levels=await transaction.levels(team, request.policy, near=request.version, most=NEAR_LEVELS),
        )
        return question, {key: found.rows for key, found in known.items()}

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
        self, team: str, model: PriorModel, standing: Standing, question: Question, shortfall: str
    ) -> _Answer:
        """Ask the head, or what stands in for it."""
        name = model if model in self._fits else next(iter(self._fits))
        absent = "" if name == model else f"this service runs {', '.join(self._fits)}, not {model}"
        try:
            fit = await self._fits[name].get(team, standing)
            predictions = await self._fits[name].answer(fit.predictor, question)
        except ArithmeticError as error:
            _log.warning("no answer", head=name, error=str(error))
            history = CONTROLS["history"]
            detail = "; ".join(filter(None, (absent, f"no answer from {name}: {error}")))
            return _Answer(history, await self._ask(history, question), standing.version, detail)
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
        texts = texts_of(request.prompts)
        async with self._repository.begin() as transaction:
            owner = await transaction.lock_policy(team, policy, request.scope, time.time())
            await transaction.register(team, texts)
            new = await transaction.add_evidence(owner, request.rows, epsilon=self._epsilon)
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
        texts = texts_of(prompts)
        async with self._repository.begin() as transaction:
            registered = await transaction.register(team, texts)
            hashes = await transaction.prompt_hashes(team, {prompt.key for prompt in prompts})
        found = await self._features.get({(team, item) for item in hashes.values()}, wait_s=0.0)
        return PromptsAnswer(registered=registered, encoded=sum((team, item) in found for item in hashes.values()))

    async def policies(self, team: str) -> list[PolicyView]:
        """Return the team's policies, each with its newest version."""
        async with self._repository.snapshot() as transaction:
            policies = await transaction.own_policies(team, most=LISTED_POLICIES)
            newest = await transaction.newest(team, LISTED_POLICIES)
        return [_view(policy, [newest[policy.policy]] if policy.policy in newest else []) for policy in policies]

    async def policy(self, team: str, policy: str) -> PolicyView:
        """Return one of the team's policies with its versions.

        Raises:
            NotFound: the team has no policy of that name.
        """
        async with self._repository.snapshot() as transaction:
            (found,) = await transaction.own_policies(team, policy)
            levels = await transaction.levels(team, policy, most=LISTED_VERSIONS)
            since = levels[0].version if levels else 0
            scores = defaultdict(list)
            for score in await transaction.scores(team, policy, since=since):
                scores[score.version].append(score)
        return _view(found, [(level, scores[level.version]) for level in levels])


def _view(policy: Policy, versions: Sequence[tuple[Level, Sequence[Scores]]]) -> PolicyView:
    return PolicyView(
        policy=policy.policy,
        scope=policy.scope,
        rows=policy.rows,
        versions=[quality(level, scores) for level, scores in versions],
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
