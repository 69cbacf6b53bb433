"""What a run has done so far, as its checkpoints keep it. Pure bookkeeping: knows neither allocator nor learner."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.groups import StepStats


@dataclass(slots=True)
class Progress:
    """Totals over all attempts of a run. The version of the weights is the number of steps.

    `rollouts` are all that were drawn, also those of a killed attempt's steps after its last checkpoint, which nothing
    was learned from in the end; `saved` is net of these.
    """

    step: int = 0
    groups: int = 0
    rollouts: int = 0
    saved: int = 0
    evaluation_rollouts: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    accuracy_start: float | None = None
    accuracy_end: float | None = None

    def count(self, drawn: StepStats) -> None:
        """Add a step that was learned from."""
        self.step += 1
        self.groups += drawn.groups
        self.rollouts += drawn.used
        self.saved += drawn.saved
        self.tokens += drawn.tokens

    def book(self, drawn: int) -> int:
        """Raise `rollouts` to what a ledger or a record says was drawn; return by how much.

        A ledger that says less has not heard of all yet, and changes nothing.
        """
        lost = max(0, drawn - self.rollouts)
        self.rollouts += lost
        self.saved -= lost
        return lost
