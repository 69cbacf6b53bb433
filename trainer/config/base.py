"""What every section of a configuration is: typed, closed, frozen; and the kinds of numbers that sections are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """Base of every section: frozen, and an unknown field is an error, so that a misspelt option is never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
