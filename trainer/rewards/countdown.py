"""The verifier of countdown: an answer is computed, not compared, since many expressions reach a target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from trainer.tasks.countdown import given
from trainer.tasks.expressions import NotAnExpression, evaluate
from trainer.types import Problem


class CountdownVerifier:
    """Obeys `trainer.types.Verifier`; its problems are those of `trainer.tasks.countdown`."""

    async def grade(self, problem: Problem, texts: Sequence[str]) -> list[float]:
        """Return 1 for each expression that reaches the target with every number used at most once, 0 for any other."""
        numbers, target = given(problem.prompt)
        return [float(_reaches(text.strip(), numbers, target)) for text in texts]

    async def close(self) -> None:
        """Release nothing: nothing is held."""


def _reaches(text: str, numbers: Sequence[int], target: int) -> bool:
    try:
        found = evaluate(text)
    except NotAnExpression:
        return False
    return found.value == target and Counter(found.numbers) <= Counter(numbers)
