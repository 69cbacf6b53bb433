"""REST types of `/v1/runs/{run_id}/plan`: candidate prompts and a budget in, the prompts to open out.

Priors are on the caller's scale, the run's `outcome_range`; signal, a variance, on its square.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from rollout_budget.wire.common import (
    MAX_GROUPS,
    MAX_PROMPT_CHARS,
    MAX_ROLLOUTS_PER_GROUP,
    Finite,
    Identifier,
    NonNegative,
    Request,
    Version,
    Wire,
)
from rollout_budget.wire.runs import PriorSourceName, SuppliedPrior, require_distinct

DEFAULT_EXPLORATION = 0.125
"""Share of a choice made uniformly: no importance weight exceeds 8, and no prompt waits more than 8 times as long."""
MIN_EXPLORATION = 1 / 64
"""Smallest share: importance weights reach 64, beyond which a batch of them says little."""


class PlanCandidate(Request):
    """A prompt that may be opened."""

    prompt_key: Identifier
    prompt: Annotated[str, Field(max_length=MAX_PROMPT_CHARS)] | None = Field(
        default=None, description="Text of the prompt; needed the first time the prior service sees its key."
    )
    prior: SuppliedPrior | None = None
    policy: Identifier | None = Field(default=None, description="Policy, if not the run's own.")
    policy_version: Version = 0


class PlanRequest(Request):
    """Candidates and a budget. The same `plan_id` with the same body gets the same answer again."""

    plan_id: Identifier = Field(description="Minted by the caller, once per choice: a training step, say.")
    candidates: Annotated[list[PlanCandidate], Field(min_length=1, max_length=MAX_GROUPS)]
    groups: Annotated[int, Field(ge=1, le=MAX_GROUPS, strict=True)] | None = Field(
        default=None, description="Prompts to choose; all, if there are fewer. Either this or `rollouts`."
    )
    rollouts: Annotated[int, Field(ge=1, le=MAX_GROUPS * MAX_ROLLOUTS_PER_GROUP, strict=True)] | None = Field(
        default=None, description="Rollouts that the first waves of the chosen may cost in all."
    )
    exploration: Annotated[float, Field(ge=MIN_EXPLORATION, le=1.0, allow_inf_nan=False, strict=True)] = Field(
        default=DEFAULT_EXPLORATION,
        description="Share e of the choice that ignores priors: every candidate is chosen with at least e times the "
        "chance of a uniform choice, and no importance weight exceeds 1/e. 1 is the uniform choice.",
    )

    @model_validator(mode="after")
    def _coherent(self) -> PlanRequest:
        require_distinct([candidate.prompt_key for candidate in self.candidates])
        if (self.groups is None) == (self.rollouts is None):
            raise ValueError("a plan needs either groups or rollouts as its budget")
        return self


class PlannedPrompt(Wire):
    """A prompt to open now. Open its group with the `plan_id`, and its weight and first wave go with it."""

    prompt_key: Identifier
    propensity: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        description="Probability with which this prompt had to be chosen."
    )
    importance_weight: NonNegative = Field(
        description="chosen / (candidates x propensity): the mean over the chosen of weight x loss is unbiased for the "
        "mean loss over all candidates."
    )
    first_wave: Annotated[int, Field(ge=1, le=MAX_ROLLOUTS_PER_GROUP)]
    prior: Finite
    standard_error: NonNegative | None
    prior_source: PriorSourceName
    expected_signal: NonNegative = Field(description="Expected variance of one outcome, under the posterior.")


class PlanAnswer(Wire):
    """The choice. Nothing is held for it: rollouts are granted when the groups open."""

    plan_id: Identifier
    candidates: int
    prompts: list[PlannedPrompt] = Field(description="In the order of the request.")
    degraded: bool = False
    detail: str = ""
