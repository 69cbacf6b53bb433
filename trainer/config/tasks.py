"""Settings of tasks: which problems are learned, and how their answers are verified."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from trainer.config.base import PositiveFloat, PositiveInt, Section
from trainer.rewards.workers import Limits


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

    levels: list[Annotated[int, Field(ge=1, le=5)]] = Field(default=[1, 2, 3], min_length=1)


class CountdownSection(GeneratedSection):
    """Expressions that reach a target (`trainer.tasks.countdown`)."""

    verifier: ClassVar[str] = "countdown"

    levels: list[Annotated[int, Field(ge=1, le=3)]] = Field(default=[1, 2, 3], min_length=1)


class SortingSection(GeneratedSection):
    """Numbers to be put in ascending or descending order (`trainer.tasks.sorting`)."""

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


class HuggingFaceSection(Section):
    """Sets of the Hugging Face hub by name, or from local folders (`trainer.tasks.huggingface`)."""

    dataset: str = ""
    path: str | None = None
    subset: str | None = None
    split: str | None = None
    held_out_dataset: str | None = None
    held_out_path: str | None = None
    held_out_split: str | None = None
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    prompt_field: str | None = None
    answer_field: str | None = None
    answer_form: Literal["plain", "after_hashes", "boxed"] | None = None
    key_field: str | None = None
    level_field: str | None = None
    template: str | None = None
    verifier: Literal["math", "exact"] = "math"


class TaskSection(Section):
    """What is learned; only the section of the named task is read."""

    name: Literal["arithmetic", "modular", "countdown", "sorting", "jsonl", "huggingface"] = "arithmetic"
    reward: Annotated[str, Field(pattern=r"^.+:\w+$")] | None = None
    reward_timeout_s: PositiveFloat = 5.0
    reward_memory_mb: Annotated[int, Field(ge=256)] = 2048
    reward_workers: PositiveInt = 2
    arithmetic: ArithmeticSection = ArithmeticSection()
    modular: ModularSection = ModularSection()
    countdown: CountdownSection = CountdownSection()
    sorting: SortingSection = SortingSection()
    jsonl: JsonlSection = JsonlSection()
    huggingface: HuggingFaceSection = HuggingFaceSection()

    @model_validator(mode="after")
    def _has_data(self) -> TaskSection:
        if self.name == "jsonl" and not self.jsonl.path:
            raise ValueError('name = "jsonl" needs task.jsonl.path, a file of JSON lines with prompt and answer')
        if self.name == "huggingface" and not self.huggingface.dataset:
            raise ValueError('name = "huggingface" needs task.huggingface.dataset, such as "gsm8k" or a local folder')
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The named task's own settings, as `trainer.tasks.get` takes them."""
        return self._named.model_dump(exclude={"verifier"})

    @property
    def verifier(self) -> str:
        """Name of the verifier, or import path of the user's reward function, as `trainer.rewards.get` takes it."""
        return self.reward or self._named.verifier

    @property
    def limits(self) -> Limits:
        """Bounds of the processes that run the user's reward function, as `trainer.rewards.get` takes them."""
        return Limits(self.reward_workers, self.reward_timeout_s, self.reward_memory_mb * 2**20)

    @property
    def held_out_size(self) -> int | None:
        """How many held-out problems a generated task has; None where only its data tell."""
        return self._named.held_out_size if isinstance(self._named, GeneratedSection) else None

    @property
    def _named(self) -> GeneratedSection | JsonlSection | HuggingFaceSection:
        section: GeneratedSection | JsonlSection | HuggingFaceSection = getattr(self, self.name)
        return section
