"""Well-known sets of mathematics: where they are, what their columns are called, and how they are usually asked.

Column names are those of the sets' published cards. Owns names only; `trainer.tasks.huggingface` reads the rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

BOXED_TEMPLATE = "{prompt}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
"""How reasoning models are usually asked; math-verify reads what is boxed."""
PLAIN_TEMPLATE = "{prompt}"


@dataclass(frozen=True, slots=True)
class Preset:
    """Where a set is and how its rows read; `held_out_split` is empty where the set has one split only."""

    dataset: str
    prompt_field: str
    answer_field: str
    split: str = "train"
    subset: str | None = None
    held_out_split: str = ""
    answer_form: str = "plain"
    template: str = BOXED_TEMPLATE
    level_field: str | None = None


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "gsm8k": Preset(
            "openai/gsm8k", "question", "answer", subset="main", held_out_split="test", answer_form="after_hashes"
        ),
        "math": Preset(
            "DigitalLearningGmbH/MATH-lighteval",
            "problem",
            "solution",
            held_out_split="test",
            answer_form="boxed",
            level_field="level",
        ),
        "math500": Preset("HuggingFaceH4/MATH-500", "problem", "answer", split="test", level_field="level"),
        "dapo-math-17k": Preset(  # its prompts say themselves how to answer: a last line "Answer: ..."
            "BytedTsinghua-SIA/DAPO-Math-17k", "prompt", "reward_model.ground_truth", template=PLAIN_TEMPLATE
        ),
        "aime24": Preset("HuggingFaceH4/aime_2024", "problem", "answer"),
        "aime25": Preset("math-ai/aime25", "problem", "answer", split="test"),
    }
)
"""Sets by the names that `task.huggingface.dataset` takes."""


def answer_plain(text: str) -> str:
    """Return the answer as it stands."""
    return text


def answer_after_hashes(text: str) -> str:
    """Return what follows the last `####` (GSM8K), without thousands separators; empty where there is none."""
    _, marked, answer = text.rpartition("####")
    return answer.strip().replace(",", "") if marked else ""


def answer_boxed(text: str) -> str:
    r"""Return the content of the last `\boxed{...}` of a solution, nested braces included; empty where there is none."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    opened = re.match(r"\\(?:boxed|fbox)\s*", text[start:]) if start >= 0 else None
    if opened is None:
        return ""
    rest = text[start + opened.end() :]
    if not rest.startswith("{"):
        return rest[:1]  # \boxed 5, as in TeX
    depth = 0
    for place, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[1:place].strip()
    return ""


ANSWER_FORMS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"plain": answer_plain, "after_hashes": answer_after_hashes, "boxed": answer_boxed}
)
"""How the answer stands in its field, by the names that `task.huggingface.answer_form` takes."""


def level_of(value: object) -> int:
    """Return a difficulty as a whole number: 3, "3" or "Level 3"; 0 where the set does not know ("Level ?")."""
    if isinstance(value, int):
        return int(value)
    found = re.search(r"\d{1,4}", str(value))
    return int(found[0]) if found else 0
