"""Building blocks of the REST types: bounds, identifiers, ranges, errors.

Every string, list and number that crosses the wire is bounded here, once; the bounds show in the OpenAPI documents.
Numbers are numbers: NaN, infinities, strings and booleans are refused in their place; an integer may stand for a float.
Unknown fields are refused in requests.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rollout_budget.outcomes import OutcomeRange

MAX_GROUPS = 4096
"""Groups in one call: a training step of a large run; a larger step takes several calls."""
MAX_ROLLOUTS_PER_GROUP = 1024
"""Rollouts of one group: far above any group size in use (2 to 128)."""
MAX_ROLLOUTS = 2**53 - 1
"""Largest count that every JSON reader keeps exact."""
MAX_ATTEMPT = 1_000_000
"""Highest attempt at one group."""
MAX_VERSION = 2**31 - 1
"""Largest policy version: a training step counter."""
MAX_TOKENS_PER_GROUP = 2**36
"""Tokens booked at once: 2**26 for each rollout of the largest group. Sums are 64 bits: they hold 2**27 such groups."""
MAX_SECONDS_PER_GROUP = 2**26
"""GPU-seconds booked at once: 18 hours for each rollout of the largest group; in milliseconds as many bits as tokens."""
MAX_SECONDS = 1e12
"""Largest limit in seconds: in milliseconds every JSON reader keeps it exact."""
MAX_PROMPT_CHARS = 32_768
"""Longest prompt text: 8,000 tokens of English; longer prompts are cut by the caller or sent without text."""

Identifier = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Unit = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False, strict=True)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False, strict=True)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False, strict=True)]
GroupTokens = Annotated[int, Field(ge=0, le=MAX_TOKENS_PER_GROUP, strict=True)]
GroupSeconds = Annotated[float, Field(ge=0.0, le=MAX_SECONDS_PER_GROUP, allow_inf_nan=False, strict=True)]
Milli = AfterValidator(lambda seconds: round(seconds, 3))
"""Keeps a time to the millisecond, in which times are counted."""
Seconds = Annotated[float, Field(ge=0.0, le=MAX_SECONDS, allow_inf_nan=False, strict=True), Milli]
RolloutTokens = Annotated[int, Field(ge=1, le=MAX_TOKENS_PER_GROUP // MAX_ROLLOUTS_PER_GROUP, strict=True)]
RolloutSeconds = Annotated[
    float,
    Field(ge=0.001, le=MAX_SECONDS_PER_GROUP // MAX_ROLLOUTS_PER_GROUP, allow_inf_nan=False, strict=True),
    Milli,
]
WarnAt = Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False, strict=True)]
LimitMode = Literal["enforce", "shadow"]
Count = Annotated[int, Field(ge=0, le=MAX_ROLLOUTS, strict=True)]
GroupCount = Annotated[int, Field(ge=0, le=MAX_ROLLOUTS_PER_GROUP, strict=True)]
GroupSize = Annotated[int, Field(ge=1, le=MAX_ROLLOUTS_PER_GROUP, strict=True)]
Attempt = Annotated[int, Field(ge=0, le=MAX_ATTEMPT, strict=True)]
Version = Annotated[int, Field(ge=0, le=MAX_VERSION, strict=True)]
Outcomes = Annotated[list[Finite], Field(max_length=MAX_ROLLOUTS_PER_GROUP)]


class Wire(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Request(Wire):
    """Base of every request: unknown fields are an error, so that a misspelt option is never ignored."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="forbid")


class Range(Request):
    """The declared range of outcomes, `low < high`, both finite."""

    low: Finite = 0.0
    high: Finite = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        self.core()
        return self

    def core(self) -> OutcomeRange:
        """Return the same range as the core's own type."""
        return OutcomeRange(self.low, self.high)


class Problem(BaseModel):
    """An error as RFC 9457 problem+json, with `code` (machine-readable) and `retryable` (same request may succeed).

    `request_id` is that of the answer's header `X-Request-Id`: the service's log says more under it.
    """

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str | None = None
    request_id: str | None = None
    code: str
    retryable: bool = False


class Health(Wire):
    """Answer of `/livez` and `/readyz`."""

    status: Literal["ok", "unavailable"]
    detail: str = ""
