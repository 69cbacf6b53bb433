"""What verl loads by itself, through the entry point group `verl.plugins` or `VERL_USE_EXTERNAL_MODULES`.

Owns the registration and its banner. verl mentions a plug-in that fails at the level DEBUG only, so a failure is
printed too. Nothing is asked of any service before the first batch.
"""

from __future__ import annotations

import os
import sys

from rollout_budget.integrations.verl.settings import SECTION
from rollout_budget.session.waiting import URL

NAME = SECTION
WORKERS = "RAY_RAYLET_PID"
"""Set by Ray in its worker processes, each of which loads verl again; those say nothing."""


def register() -> None:
    """Enter the estimator into verl's registry."""
    try:
        from verl.trainer.ppo.core_algos import register_adv_est  # noqa: PLC0415  verl may be missing or changed

        from rollout_budget.integrations.verl.estimator import estimate  # noqa: PLC0415

        register_adv_est(NAME)(estimate)
    except Exception as error:
        _say(f"not loaded, verl goes on without it: {type(error).__name__}: {error}")
        raise
    place = os.environ.get(URL) or f"in this process, since {URL} is not set"
    _say(f"estimator {NAME!r} is loaded, allocator: {place}; off: VERL_USE_EXTERNAL_PLUGINS=none")


def _say(text: str) -> None:
    if WORKERS not in os.environ:
        print(f"rollout-budget for verl: {text}", file=sys.stderr, flush=True)  # noqa: T201 - verl's log is not set up yet


register()
