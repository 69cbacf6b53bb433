"""The strictest verifier: a completion is right when it is the answer, but for white space around it."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.types import Problem


class ExactVerifier:
    """Obeys `trainer.types.Verifier`."""

    async def grade(self, problem: Problem, texts: Sequence[str]) -> list[float]:
        """Return 1 for each text that equals the answer, 0 for any other."""
        answer = problem.answer.strip()
        return [float(text.strip() == answer) for text in texts]

    async def close(self) -> None:
        """Release nothing: nothing is held."""
