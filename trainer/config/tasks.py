"""Settings of tasks: which problems are learned, and how their answers are verified."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from trainer.config.base import PositiveInt, Section


class GeneratedSection(Section):
    """What the generated tasks share (`trainer.tasks.generated`)."""

    verifier: ClassVar[str] = "exact"

    size: PositiveInt = 1000
    held_out_size: PositiveInt = 256
    levels: list[int] = Field(default=[], min_length=1)
    seed: Annotated[int, Field(ge=0)] = 0


class ArithmeticSection(GeneratedSection):
    """Generated sums and differences of graded difficulty (`trainer.tasks.arithmetic`)."""

    levels: list[Annotated[int, Field(ge=1, le=9)]] = Field(default=[1, 2], min_length=1)


class ModularSection(GeneratedSection):
    """Generated modular arithmetic (`trainer.tasks.modular`)."""

    levels: list[Annotated[int, Field(ge=1, le=5)]] = Field(default=[1, 2], min_length=1)


class CountdownSection(GeneratedSection):
    """Expressions that reach a target (`trainer.tasks.countdown`)."""

    verifier: ClassVar[str] = "countdown"

    levels: list[Annotated[int, Field(ge=1, le=3)]] = Field(default=[1, 2, 3], min_length=1)


class SortingSection(GeneratedSection):
    """Numbers to be put in order (`trainer.tasks.sorting`)."""

    levels: list[Annotated[int, Field(ge=1, le=5)]] = Field(default=[4, 5], min_length=1)


class JsonlSection(Section):
    """Prompts and answers from files of JSON lines (`trainer.tasks.jsonl`)."""

    path: str = ""
    prompt_field: str = "prompt"
    answer_field: str = "answer"
    key_field: str | None = None
    level_field: str | None = None
    held_out_path: str | None = None
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    verifier: Literal["math", "exact"] = "math"


class TaskSection(Section):
    """What is learned; only the section of the named task is read."""

    name: Literal["arithmetic", "modular", "countdown", "sorting", "jsonl"] = "arithmetic"
    arithmetic: ArithmeticSection = ArithmeticSection()
    modular: ModularSection = ModularSection()
    countdown: CountdownSection = CountdownSection()
    sorting: SortingSection = SortingSection()
    jsonl: JsonlSection = JsonlSection()

    @model_validator(mode="after")
    def _has_data(self) -> TaskSection:
        if self.name == "jsonl" and not self.jsonl.path:
            raise ValueError('name = "jsonl" needs task.jsonl.path, a file of JSON lines with prompt and answer')
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The named task's own settings, as `trainer.tasks.get` takes them."""
        return self._named.model_dump(exclude={"verifier"})

    @property
    def verifier(self) -> str:
        """Name of the verifier, as `trainer.rewards.get` takes it."""
        return self._named.verifier

    @property
    def _named(self) -> GeneratedSection | JsonlSection:
        section: GeneratedSection | JsonlSection = getattr(self, self.name)
        return section
