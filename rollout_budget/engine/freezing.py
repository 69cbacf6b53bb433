"""Priors as groups keep them: the caller's, the source's, or the run's own running mean. Asked once, then frozen.

The source is asked between two transactions, never inside one. If it does not answer, the running mean serves, and the
answer says so: a prior that is gone degrades a run, it never stops one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rollout_budget import baselines
from rollout_budget.engine.answers import value_to_unit
from rollout_budget.engine.ports import PriorSource
from rollout_budget.engine.records import RunRecord
from rollout_budget.errors import InvalidInput, ServiceError
from rollout_budget.wire import PriorSourceName, Prompt, SuppliedPrior

UNKNOWN_MEAN = 0.5
"""The prior of a run that has seen nothing, unit scale: the middle of the range."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the prior source said of one prompt, unit scale; `degraded` says why `value` is None, or how it is less."""

    value: float | None
    standard_error: float | None = None
    evidence_version: int = 0
    degraded: str = ""


@dataclass(frozen=True, slots=True)
class FrozenPrior:
    """The prior that a group keeps, unit scale; the fields are those of `GroupRecord`."""

    value: float
    standard_error: float | None
    source: PriorSourceName
    evidence_version: int = 0
    predicted: float | None = None
    degraded: str = ""


FetchKey = tuple[str, int, str]
"""Policy, version and prompt key."""


class Asked(Protocol):
    """A prompt whose prior is wanted: a group to open, or a candidate of a plan."""

    @property
    def prompt_key(self) -> str:
        """Stable identity of the prompt."""
        ...

    @property
    def prompt(self) -> str | None:
        """Its text, where the source may not know it."""
        ...

    @property
    def prior(self) -> SuppliedPrior | None:
        """The caller's own prior."""
        ...

    @property
    def policy(self) -> str | None:
        """Its policy, if not the run's."""
        ...

    @property
    def policy_version(self) -> int:
        """Which weights of it."""
        ...


async def fetch(priors: PriorSource, run: RunRecord, asked: Sequence[Asked]) -> dict[FetchKey, Fetched]:
    """Ask the source for the priors of prompts that bring none of their own; one that fails gives reasons, no error."""
    texts: dict[tuple[str, int], dict[str, str | None]] = {}
    for one in asked:
        policy, version, prompt_key = fetch_key(run, one)
        known = texts.setdefault((policy, version), {})
        known[prompt_key] = known.get(prompt_key) or one.prompt
    fetched: dict[FetchKey, Fetched] = {}
    for (policy, version), known in texts.items():
        prompts = [Prompt(key=key, text=text) for key, text in known.items()]
        found = await _ask(priors, run, policy, version, prompts)
        fetched |= {(policy, version, prompt.key): item for prompt, item in zip(prompts, found, strict=True)}
    return fetched


def freeze(
    run: RunRecord, names: Sequence[str], asked: Sequence[Asked], fetched: Mapping[FetchKey, Fetched]
) -> list[FrozenPrior]:
    """Choose the priors of new groups, or of prompts that may become some: the caller's, else the source's, else the run's running mean.

    For estimators that drop priors the running mean also takes the place of one that predicts no better than it does;
    the run then goes on judging what was `predicted`, so that a prior that recovers is used again.

    Raises:
        InvalidInput: a caller's prior lies outside the outcome range; the message has its name, by `names`.
    """
    learned, width = run.reliability, run.spec.outcome_range.core().width
    mean = UNKNOWN_MEAN if learned.running_mean is None else min(max(learned.running_mean, 0.0), 1.0)
    dropped = not learned.prior_usable and baselines.get(run.spec.estimator).drops_prior
    own = iter(_own(run, names, asked))
    frozen = []
    for one in asked:
        if one.prior is not None:
            error = one.prior.standard_error
            prior = FrozenPrior(next(own), None if error is None else error / width, "caller")
        else:
            prior = _found(fetched[fetch_key(run, one)], mean)
        if dropped and prior.source != "running_mean":
            prior = FrozenPrior(mean, None, "running_mean", prior.evidence_version, prior.value, prior.degraded)
        frozen.append(prior)
    return frozen


def _own(run: RunRecord, names: Sequence[str], asked: Sequence[Asked]) -> list[float]:
    """Return the callers' own priors on the unit scale, of those that have one."""
    outcome_range = run.spec.outcome_range.core()
    supplied = [(name, one.prior.value) for name, one in zip(names, asked, strict=True) if one.prior is not None]
    try:
        units: list[float] = outcome_range.to_unit([value for _, value in supplied]).tolist()
    except InvalidInput:
        for name, value in supplied:
            value_to_unit(outcome_range, f"{name}: prior", value)
        raise
    return units


def _found(said: Fetched, mean: float) -> FrozenPrior:
    if said.value is None:
        return FrozenPrior(mean, None, "running_mean", degraded=said.degraded)
    return FrozenPrior(said.value, said.standard_error, "prior_service", said.evidence_version, degraded=said.degraded)


def fetch_key(run: RunRecord, asked: Asked) -> FetchKey:
    """Return what a prior is asked by."""
    return asked.policy or run.spec.policy, asked.policy_version, asked.prompt_key


async def _ask(
    priors: PriorSource, run: RunRecord, policy: str, version: int, prompts: Sequence[Prompt]
) -> list[Fetched]:
    try:
        answer = await priors.values(run.team, policy, version, prompts, run.spec.prior_model)
    except ServiceError as error:
        return [Fetched(None, degraded=f"no prior ({error.code}): {error}")] * len(prompts)
    values = {value.key: value for value in answer.values}
    missing = Fetched(None, degraded=f"no prior: {answer.detail or 'the source has none for this prompt'}")
    detail = (answer.detail or f"the prior came from {answer.model}") if answer.degraded else ""
    return [
        Fetched(value.value, value.standard_error, answer.evidence_version, detail)
        if (value := values.get(prompt.key)) is not None
        else missing
        for prompt in prompts
    ]
