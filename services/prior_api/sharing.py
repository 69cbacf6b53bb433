"""What of shared evidence crosses to other teams, and the noise that keeps a single outcome unreadable.

Every row of a shared policy gets noise once, when it is stored, and all that another team is ever told rests on the
noisy number: asking again, watching values move and comparing prompts add nothing. The noise is the two-sided geometric
law on a grid of 1/64 successes (Ghosh, Roughgarden, Sundararajan 2009, arXiv 0811.2841), with P(j) ~ exp(-epsilon |j| /
64). Changing one outcome moves a row's successes by at most 1, so whatever is seen is at most e^epsilon times as likely
under one outcome as under the other (epsilon-differential privacy; Dwork, McSherry, Nissim, Smith 2006), and no guess of
a single outcome is right more often than e^epsilon / (1 + e^epsilon) from even odds: 0.73 at epsilon 1.

The noise comes from the operating system's random source, so that it cannot be computed. Rows cross in blocks, so that
the arrival of one row is not seen by itself, and under identities of their owner's, so that they count for texts by
likeness, not by being the same: what is said of a text changes no more when exactly that text was met than when one
next to it was.
"""

from __future__ import annotations

import math
import random

from services.prior_api.histories import exact
from services.prior_api.records import Cell, Policy, Public

EPSILON = 1.0
"""Per outcome. At 8 rollouts a row the noise of 1.4 successes is about that of the outcomes themselves."""
BLOCK = 32
"""Rows of a shared policy that become visible to others together."""
GRID = 64
"""Steps of noise per success: fractional successes are rounded to it, so that no digit beyond tells them apart."""
OUTCOME_VARIANCE = 1 / 8
"""Of one outcome, where noise is put in terms of rollouts: the same figure that a fit starts from."""

_SEAM = "\x00"
"""Between a team and a hash: in neither can it occur."""
_source = random.SystemRandom()


def noisy(successes: float, epsilon: float) -> float:
    """Return successes with fresh noise; may leave [0, trials]."""
    return round(successes * GRID) / GRID + (_geometric(epsilon / GRID) - _geometric(epsilon / GRID)) / GRID


def variance(epsilon: float) -> float:
    """Return the variance of the noise, in successes squared."""
    ratio = math.exp(-epsilon / GRID)
    return 2 * ratio / (1 - ratio) ** 2 / GRID**2


def released(rows: int) -> int:
    """Return how many of a shared policy's rows others see."""
    return rows - rows % BLOCK


def foreign(policy: Policy, row: Public) -> Cell:
    """Return another team's row as a cell: rate within [0, 1], and as many trials as its noise leaves it worth.

    Its prompt is its owner's, not the one of the same text that the learning team may have.
    """
    worth = row.trials / (1 + row.blur / (OUTCOME_VARIANCE * row.trials))
    rate = min(max(row.successes / row.trials, 0.0), 1.0)
    identity = None if row.text_hash is None else f"{policy.team}{_SEAM}{row.text_hash}"
    return Cell(policy.team, policy.policy, str(row.serial), identity, row.version, exact(rate * worth), worth, 1)


def place_of(cell: Cell) -> tuple[str, str]:
    """Return whose text a cell is of, and its hash."""
    team, seam, text_hash = (cell.text_hash or "").partition(_SEAM)
    return (team, text_hash) if seam else (cell.team, team)


def _geometric(rate: float) -> int:
    """Draw j >= 0 with P(j) ~ exp(-rate j)."""
    return math.floor(-math.log(1.0 - _source.random()) / rate)
