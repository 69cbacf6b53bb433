"""A made-up policy: prompts of unequal difficulty, and a skill that grows by what there is to learn from.

Pure: all chance comes from the generator that is handed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

LESSON = 0.35
"""What a step adds to the skill, per unit of mean p(1-p) of its prompts: some 100 steps from a third to four fifths solved."""
LEVEL_ERROR = 1.2
"""Standard deviation of what a prompt's text says of its difficulty, logits: a prior from texts is good, not perfect."""
TOKENS_MEAN = 220.0
TOKENS_SPREAD = 0.5
"""Tokens of a completion: log-normal with this mean and this deviation of the logarithm."""
TOKENS_PER_GPU_S = 2_500.0
"""Decoding speed of one device, for the seconds that a close reports."""


@dataclass(slots=True)
class Policy:
    """Solves a prompt of difficulty d with chance 1 / (1 + exp(d - skill)).

    Args:
        prompts: how many there are; a step draws from them, so they recur.
        hardness: mean difficulty, logits; their standard deviation is 1.5.
        chance: where all randomness comes from.
    """

    prompts: int
    hardness: float
    chance: np.random.Generator
    skill: float = 0.0
    version: int = 0
    _difficulty: np.ndarray = field(init=False)
    _shown: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self._difficulty = self.chance.normal(self.hardness, 1.5, self.prompts)
        self._shown = np.rint(self._difficulty + self.chance.normal(0.0, LEVEL_ERROR, self.prompts))

    def choose(self, count: int) -> list[int]:
        """Return `count` different prompts, by their numbers."""
        return [int(one) for one in self.chance.choice(self.prompts, count, replace=False)]

    def level(self, prompt: int) -> int:
        """Return what a prompt's text says of its difficulty: a whole number of logits, which never changes."""
        return int(self._shown[prompt])

    def rate(self, prompt: int) -> float:
        """Return the chance of solving a prompt now."""
        return float(1.0 / (1.0 + np.exp(self._difficulty[prompt] - self.skill)))

    def draw(self, prompt: int, count: int) -> list[float]:
        """Return the outcomes of `count` rollouts, 0 or 1 each."""
        return [float(one) for one in self.chance.random(count) < self.rate(prompt)]

    def tokens(self, count: int) -> int:
        """Return the tokens that `count` completions take."""
        centre = np.log(TOKENS_MEAN) - TOKENS_SPREAD**2 / 2
        return int(self.chance.lognormal(centre, TOKENS_SPREAD, count).sum())

    def learn(self, prompts: list[int]) -> None:
        """Take a step on groups of these prompts: the next version, better by what they had to teach."""
        rates = np.array([self.rate(prompt) for prompt in prompts])
        self.skill += LESSON * float(np.mean(rates * (1.0 - rates))) if rates.size else 0.0
        self.version += 1
