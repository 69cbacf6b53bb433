"""The methods that are compared, as recipes of the trainer with what is changed in them, and the ablations of ours.

Owns names and settings only. The learner is the same for all but for what a recipe itself says (DAPO's wider clip, the
scaling of advantages in GRPO and SPO); its rate is tuned for each on the same grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Settings = Mapping[str, Any]
"""By `section.field`."""


@dataclass(frozen=True, slots=True)
class Method:
    """A recipe and what is changed in it.

    Attributes:
        recipe: name of a file in `trainer/recipes`.
        changes: settings over those of the recipe.
        rate_of: name of the method whose learning rate it takes; empty where its own is tuned.
        says: what it is, in a line.
    """

    recipe: str
    changes: Settings = field(default_factory=dict)
    rate_of: str = ""
    says: str = ""


def _fixed(size: int) -> Settings:
    return {"allocator.k_init": size, "allocator.k_max": size}


REFERENCE = "GRPO-16"
OURS = "rollout-budget"

METHODS: Mapping[str, Method] = {
    REFERENCE: Method(
        "grpo", _fixed(16), says="as published: group mean, divided by the group's standard deviation, 16 a prompt"
    ),
    OURS: Method("rollout_budget", {"allocator.k_init": 1}, says="our recipe, with a first wave of one"),
    "ours, scaled": Method(
        "rollout_budget",
        {"allocator.k_init": 1, "learner.advantage_scale": "batch_std"},
        says="ours, advantages divided by their spread over the step",
    ),
    "ours, scaled, history": Method(
        "rollout_budget",
        {"allocator.k_init": 1, "allocator.prior_model": "history", "learner.advantage_scale": "batch_std"},
        says="the same, the prior from each prompt's own past, no texts",
    ),
    "RLOO-2": Method("rloo", _fixed(2), says="leave-one-out mean, 2 a prompt"),
    "RLOO-4": Method("rloo", _fixed(4), says="leave-one-out mean, 4 a prompt"),
    "V0.5": Method("v05", says="the paper: fusion, look-ahead, 4 to 16 a prompt"),
    "DAPO": Method("dapo", says="GRPO-16, wider clip, groups without signal drawn anew"),
    "Dr. GRPO-16": Method("dr_grpo", _fixed(16), says="group mean, not divided, every token alike, 16 a prompt"),
    "Reinforce-Ada": Method("reinforce_ada", says="rounds until a group has both outcomes"),
    "SPO": Method("spo", says="one a prompt, each prompt's own history as baseline, advantages scaled by the batch"),
}
"""In the order of their runs, which is that of their importance: a study that is stopped early has the first of them."""


def _ours(says: str, **changes: Any) -> Method:
    settings = {f"allocator.{name}": value for name, value in changes.items()}
    return Method("rollout_budget", {**METHODS[OURS].changes, **settings}, rate_of=OURS, says=says)


ABLATIONS: Mapping[str, Method] = {
    "ours, prior off": _ours("a constant prior", prior_model="constant"),
    "ours, own history": _ours("each prompt's own past, no texts", prior_model="history"),
    "ours, the paper's fusion": _ours("baseline of the paper in place of ours", estimator="v05"),
    "ours, no extra rollouts": _ours("one rollout a prompt, always", stopping="fixed", k_max=1),
    "ours, leave-one-out off": _ours("one baseline per group, own outcome included", leave_one_out=False),
    "ours, k_init 1": _ours("first wave of 1", k_init=1),
    "ours, k_init 2": _ours("first wave of 2", k_init=2),
    "ours, k_init 4": _ours("first wave of 4", k_init=4),
    "ours, k_init auto": _ours("first wave by the prior's record", k_init="auto"),
    "ours, prompts planned": _ours("prompts chosen by expected signal", plan=True),
    "ours, k_init 2, planned": _ours("first wave of 2, prompts chosen by expected signal", k_init=2, plan=True),
    "ours, prompts uniform": _ours("prompts not chosen", plan=False),
    "V0.5, k_init 1": Method("v05", {"allocator.k_init": 1}, rate_of="V0.5", says="the paper's rule from 1 on"),
    "V0.5, k_init 2": Method("v05", {"allocator.k_init": 2}, rate_of="V0.5", says="the paper's rule from 2 on"),
}
"""One change each. Those that change nothing, because the recipe has that setting already, are not run again."""

ALL: Mapping[str, Method] = {**METHODS, **ABLATIONS}
