"""Dynamic sampling of DAPO (arXiv 2503.14476, eq. 11): groups whose outcomes are all equal are replaced by new ones.

Every group is drawn in full, as with `fixed`; one without both kinds of outcomes then stops with the reason
`no_signal`, and the trainer opens another prompt in its place. The rollouts of a replaced group are spent all the same.
"""

from __future__ import annotations

from typing import ClassVar

from rollout_budget.stopping.fixed import Fixed


class Dapo(Fixed):
    """Groups of `k_max` rollouts; those with equal outcomes are given up."""

    name: ClassVar[str] = "dapo"
    refills: ClassVar[bool] = True
