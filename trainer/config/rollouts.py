"""Settings of rollouts, and of how new weights reach the servers that draw them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainer.config.base import PositiveFloat, PositiveInt, Section


class RolloutsSection(Section):
    """Sampling, and the size of a step."""

    urls: list[str] = Field(default=[])
    weights: list[PositiveFloat] = Field(default=[])
    per_step: PositiveInt = 256
    prompts_per_step: PositiveInt | None = None
    prompts_per_call: PositiveInt = 1
    calls_per_server: PositiveInt = 128
    max_tokens: PositiveInt = 8
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_staleness: Annotated[int, Field(ge=0, le=64)] = 0
    over_issue: Annotated[float, Field(ge=0, le=4, allow_inf_nan=False)] = 0.0
    refill_rounds: Annotated[int, Field(ge=0, le=64)] = 0
    deadline_s: PositiveFloat = 900.0

    @model_validator(mode="after")
    def _one_weight_each(self) -> RolloutsSection:
        if self.weights and len(self.weights) != len(self.urls):
            raise ValueError(
                f"weights has {len(self.weights)} numbers for {len(self.urls)} urls; give one each, or none"
            )
        return self


class WeightsSection(Section):
    """How new weights reach the servers."""

    backend: Literal["filesystem", "lora", "nccl", "gloo"] = "filesystem"
    master_address: str = "127.0.0.1"
    dtype: Literal["float32", "bfloat16"] = "float32"
    keep: PositiveInt = 2
    check: bool = True
