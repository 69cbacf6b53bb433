"""Prompts for the asynchronous trainer: rows without end, their token ids, and completions in the form of their prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rollout_budget.integrations.trl.completions import Completion

Numbered = tuple[int, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where prompts come from.

    Attributes:
        rows: with a column `prompt`, a text or messages; gone through again and again.
        key: column with a stable id of the prompt.
        at_once: prompts of a batch.
        template: further arguments of the chat template.
    """

    rows: Iterable[Mapping[str, Any]]
    tokenizer: Any
    key: str | None
    at_once: int
    template: Mapping[str, Any]

    def batches(self) -> Iterator[list[Numbered]]:
        """Give numbered rows without end.

        Raises:
            ValueError: the data set is empty.
        """
        number, batch = 0, []
        while True:
            before = number
            for row in self.rows:
                batch.append((number, row))
                number += 1
                if len(batch) == self.at_once:
                    yield batch
                    batch = []
            if number == before:
                raise ValueError("the data set has no row")

    def ids(self, prompt: Any) -> list[int]:
        """Return the token ids that the policy is asked to continue."""
        if isinstance(prompt, str):
            return list(self.tokenizer(prompt)["input_ids"])
        more = {"add_generation_prompt": True, "return_dict": False, **self.template}
        return list(self.tokenizer.apply_chat_template(prompt, **more))

    def text(self, prompt: Any, completion: Completion) -> Any:
        """Return a completion as reward functions see it: in the form of its prompt."""
        text = self.tokenizer.decode(completion.ids, skip_special_tokens=True)
        return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
