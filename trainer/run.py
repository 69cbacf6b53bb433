"""What a run is made of before it is connected to anything: settings, folder, learner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.config import Config
from trainer.learner.learner import Learner
from trainer.learner.ranks import Lead
from trainer.policy import encode_prompt


@dataclass(frozen=True, slots=True)
class Run:
    """One run on rank 0.

    Attributes:
        directory: of the run; its name is the run's id.
        learner: on this rank.
        team: the learners of all ranks.
    """

    config: Config
    directory: Path
    learner: Learner
    team: Lead

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Return the token ids that the policy is asked to continue."""
        return encode_prompt(self.learner.tokenizer, prompt, chat_template=self.config.policy.chat_template)
