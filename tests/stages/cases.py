"""Which fault meets whom, and when: all of them by name, and the part that fits a test suite. Pure.

A name is a case in full, so it can be run again: `kill-allocator-observe-2` is a SIGKILL of the allocator while it has
the first report of step 2; `kill-allocator-observe-2!` once it has answered, and before anyone has the answer.
Several faults of one case are joined by `+`; `@1` at the end lets the run draw one version ahead of its learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal, Self, get_args

Target = Literal["prior", "allocator", "server", "learner"]
"""Whom a fault meets; `server` is the second of two vLLM servers."""
Fault = Literal["kill", "lose", "gone", "pause", "hang", "slow"]
"""What happens.

kill: SIGKILL; a service is started again at once, and is back two steps later; the learner is started again.
lose: SIGKILL; started again when the trainer's process has ended, in whatever way.
gone: SIGKILL; started again when the run is over.
pause: SIGSTOP, and SIGCONT after a few seconds.
hang: SIGSTOP, and SIGCONT when the trainer's process has ended.
slow: each answer is held back from now on; the learner gets a fraction of its time for a while.
"""

STEPS = 4
"""Steps of a run."""
OF_PRIOR = ("values", "evidence")
OF_ALLOCATOR = ("open", "observe", "close")
OF_SERVERS = ("generate", "measure", "pause", "update", "finish", "reset", "resume")
"""Stages that a proxy sees, by who is asked."""
OF_LEARNER = (
    "rollouts",
    "noting",
    "learning",
    "publishing",
    "exporting",
    "exported",
    "checkpoint",
    "saving",
    "saved",
    "completing",
    "forgetting",
)
"""Stages that the trainer tells of: its phases; a line of its journal is due; a draft of weights or of a checkpoint is begun, is
about to be renamed, the mark of a complete checkpoint is about to be set, and a step of the journal to be removed."""
LAST = {"forgetting": 2}
"""Last step at which a stage is reached, where it is not reached at 4 for all of 1 to 3."""
STAGES = (*OF_PRIOR, *OF_ALLOCATOR, *OF_SERVERS, *OF_LEARNER)


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault.

    Attributes:
        stage: of a step, see `STAGES`.
        step: the first in which it may happen; it does as soon as the stage is reached.
        answered: wait until the request of the stage was answered; else it is under way.
    """

    fault: Fault
    target: Target
    stage: str
    step: int
    answered: bool = False

    def __str__(self) -> str:
        return f"{self.fault}-{self.target}-{self.stage}-{self.step}" + "!" * self.answered

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the fault of a name.

        Raises:
            ValueError: it is none.
        """
        fault, target, stage, step = text.removesuffix("!").split("-")
        if fault not in get_args(Fault) or target not in get_args(Target) or stage not in STAGES:
            raise ValueError(text)
        return cls(fault, target, stage, int(step), answered=text.endswith("!"))  # type: ignore[arg-type] # just checked


@dataclass(frozen=True, slots=True)
class Case:
    """One run and what happens to it.

    Attributes:
        ahead: versions by which drawing may be ahead of learning.
    """

    strikes: tuple[Strike, ...]
    ahead: int = 0

    def __str__(self) -> str:
        return "+".join(map(str, self.strikes)) + (f"@{self.ahead}" if self.ahead else "")

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the case of a name."""
        strikes, _, ahead = text.partition("@")
        return cls(tuple(map(Strike.of, strikes.split("+"))), int(ahead or 0))

    @property
    def targets(self) -> set[Target]:
        """Whom it meets."""
        return {strike.target for strike in self.strikes}

    @property
    def is_exact(self) -> bool:
        """Whether its run is comparable with an undisturbed one to the last bit: nobody else is hurt, all is in turn."""
        return self.targets == {"learner"} and not self.ahead


FAULTS: dict[Target, tuple[Fault, ...]] = {
    "prior": ("kill", "lose", "pause", "hang", "slow"),
    "allocator": ("kill", "lose", "pause", "hang", "slow"),
    "server": ("kill", "lose", "pause", "hang", "slow"),
    "learner": ("kill", "pause", "slow"),
}
PLACES: dict[Target, tuple[str, ...]] = {
    "prior": (*OF_PRIOR, "learning"),
    "allocator": (*OF_ALLOCATOR, "learning"),
    "server": (*OF_SERVERS, "learning"),
    "learner": (*OF_ALLOCATOR, *OF_SERVERS, *OF_LEARNER),
}
"""Where each is struck: where it is at work, and where it is not."""
TOGETHER = (
    "lose-allocator-open-2+kill-learner-learning-2",
    "lose-allocator-observe-2+kill-learner-publishing-2",
    "lose-allocator-close-2+kill-learner-learning-3",
    "lose-allocator-close-2!+kill-learner-learning-2",
    "gone-allocator-open-2+kill-learner-learning-3",
    "gone-allocator-observe-3+kill-learner-generate-4",
    "gone-allocator-open-4",
    "lose-prior-values-2+kill-learner-observe-3",
    "lose-server-generate-2+kill-learner-update-3",
    "gone-server-update-2+kill-learner-generate-3",
    "kill-learner-generate-2+kill-learner-saving-2",
    "hang-allocator-close-2+kill-learner-learning-2",
    "hang-server-update-2+kill-learner-rollouts-3",
    "lose-prior-values-2+lose-allocator-observe-3",
)
"""Two at once: above all the trainer, while somebody else is away whom it still had something to tell."""
AHEAD = (
    "kill-learner-generate-2@1",
    "kill-learner-learning-2@1",
    "kill-learner-saving-2@2",
    "kill-learner-update-3@1",
    "kill-learner-pause-2@1",
    "kill-allocator-observe-2@1",
    "lose-allocator-open-2+kill-learner-learning-3@1",
    "hang-allocator-close-2@2",
    "lose-prior-values-2@1",
    "kill-server-generate-1@1",
    "lose-server-update-2@1",
    "pause-server-update-2@1",
    "hang-server-generate-2@2",
    "slow-server-generate-2@1",
)
"""Drawing and learning at once: new weights come while completions are under way."""
SHORT = (
    "lose-prior-values-2",
    "hang-prior-evidence-2",
    "kill-allocator-observe-2",
    "kill-allocator-close-2!",
    "pause-allocator-open-2",
    "lose-allocator-open-3",
    "kill-learner-generate-3",
    "kill-learner-saved-2",
    "gone-allocator-observe-2+kill-learner-learning-3",
    "pause-server-update-2",
    "lose-server-generate-2",
)
"""What a test suite has time for; the last one leaves a server dead."""


def matrix(step: int) -> list[Case]:
    """Return every target under every fault at every stage of a step, requests under way and just answered."""
    single = [
        Strike(fault, target, stage, step, answered)
        for target, faults in FAULTS.items()
        for fault in faults
        for stage in PLACES[target]
        for answered in (False, True)
        if not answered or (fault == "kill" and stage not in OF_LEARNER)
    ]
    return [Case((strike,)) for strike in single]


def everything(seed: int) -> list[Case]:
    """Return all cases in an order of their own for each seed, each at a step of its own from 1 to 3."""
    random = Random(seed)  # noqa: S311 - an order, no secret
    singles = [case.strikes[0] for case in matrix(1)]
    cases = [Case((replace(one, step=random.randint(1, LAST.get(one.stage, 3))),)) for one in singles]
    cases += map(Case.of, (*TOGETHER, *AHEAD))
    random.shuffle(cases)
    return cases


def named(names: Sequence[str]) -> list[Case]:
    """Return the cases of these names, `short`, `together`, `ahead` and `all` (at step 2) among them.

    Raises:
        ValueError: a name is none.
    """
    found: list[Case] = []
    for name in names:
        if name == "all":
            found += [*matrix(2), *map(Case.of, (*TOGETHER, *AHEAD))]
        elif name == "together":
            found += map(Case.of, TOGETHER)
        elif name == "ahead":
            found += map(Case.of, AHEAD)
        elif name == "short":
            found += map(Case.of, SHORT)
        else:
            found.append(Case.of(name))
    return found
