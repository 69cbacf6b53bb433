"""REST types of the prior service: values, evidence, policies, prompts.

The prior service speaks the unit scale only: a value is a predicted success rate in [0, 1], evidence is successes out
of trials, where a fractional success is the mean outcome on the unit scale times the trials.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rollout_budget.wire.common import (
    MAX_GROUPS,
    MAX_PROMPT_CHARS,
    Finite,
    GroupSize,
    Identifier,
    NonNegative,
    Request,
    Unit,
    Version,
    Wire,
)
from rollout_budget.wire.runs import PriorModel, require_distinct

SharingScope = Literal["private", "shared"]


class Prompt(Request):
    """A prompt by key; its text is needed the first time the service sees the key of this team."""

    key: Identifier
    text: Annotated[str, Field(max_length=MAX_PROMPT_CHARS)] | None = None


class ValuesRequest(Request):
    """Prompts whose success rate under one version of a policy is wanted."""

    policy: Identifier
    version: Version
    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=MAX_GROUPS)]
    model: PriorModel = "gp"


class Value(Wire):
    """A predicted success rate with its standard error, and how many rows of evidence it has seen for this prompt."""

    key: Identifier
    value: Unit
    standard_error: NonNegative
    evidence_count: int


class ValuesAnswer(Wire):
    """One value per prompt, in the order of the request.

    `model` names the head that answered; it differs from the one asked for when that one could not (no fit, not run by
    this service), and `detail` says why.
    """

    values: list[Value]
    model: PriorModel
    model_version: str
    evidence_version: int
    degraded: bool = False
    detail: str = ""


class EvidenceRow(Request):
    """Outcomes of one prompt under one version. `id` is the caller's and makes the row count once."""

    id: Identifier
    key: Identifier
    version: Version
    successes: NonNegative
    trials: GroupSize

    @model_validator(mode="after")
    def _possible(self) -> EvidenceRow:
        if self.successes > self.trials:
            raise ValueError(f"{self.successes} successes in {self.trials} trials")
        return self


class EvidenceRequest(Request):
    """Evidence rows of one policy; a `scope` once stated cannot change."""

    rows: Annotated[list[EvidenceRow], Field(min_length=1, max_length=MAX_GROUPS)]
    prompts: Annotated[list[Prompt], Field(max_length=MAX_GROUPS)] = Field(
        default_factory=list, description="Texts of keys that were not registered before."
    )
    scope: SharingScope | None = Field(
        default=None, description="Null leaves a policy's scope as it is; a new policy is then private."
    )

    @model_validator(mode="after")
    def _distinct(self) -> EvidenceRequest:
        require_distinct([row.id for row in self.rows])
        return self


class EvidenceAnswer(Wire):
    """Rows newly stored, rows that were there already, and the evidence version afterwards."""

    stored: int
    repeated: int
    evidence_version: int


class PromptsRequest(Request):
    """Texts to register ahead, so that features are ready before training starts."""

    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=MAX_GROUPS)]


class PromptsAnswer(Wire):
    """How many keys are new, and how many have their features already."""

    registered: int
    encoded: int


class VersionQuality(Wire):
    """Evidence and prediction quality of one version of a policy; quality is of values given before the evidence came."""

    version: int
    rows: int
    trials: int
    mean: Unit | None
    predicted: int = Field(default=0, description="Evidence rows for whose prompt a value had been given before.")
    squared_error: NonNegative | None = None
    explained_variance: Finite | None = None
    calibration_error: NonNegative | None = None


class PolicyView(Wire):
    """A policy and what is known of it."""

    policy: Identifier
    scope: SharingScope
    rows: int
    versions: list[VersionQuality]


class ModelPart(Wire):
    """An encoder or a head of the service, and on what terms its weights may be used."""

    name: str
    licence: str = Field(description="Of the weights; of the code where there are none.")
    source: str = Field(description="Where the weights come from.")
    commercial_use: bool | None = Field(description="Whether the licence allows it; null: not known here, read it.")


class ModelView(Wire):
    """What the service predicts with. Of the heads, the first answers for one that is asked for and not run here."""

    encoder: ModelPart
    heads: list[ModelPart]


class PoliciesAnswer(Wire):
    """The team's own policies, and what values are predicted with."""

    policies: list[PolicyView]
    model: ModelView | None = None
