"""What passes between repository, service and heads: plain frozen records, no SQL and no mathematics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt's text with its hash; never logged."""

    hash: str
    text: str


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that a team may learn from."""

    team: str
    policy: str
    scope: str
    rows: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How much evidence a team may learn from at one time.

    Attributes:
        version: rows of all policies that it may learn from, the evidence version of an answer.
        policies: those that a fit learns from, with the rows of each that the team sees.
    """

    version: int
    policies: tuple[Policy, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """Evidence of one prompt under one version of one policy, added up over rows.

    Attributes:
        team: owner of the policy.
        key: prompt key within that team.
        text_hash: hash of the prompt's text, None where no text is known.
        successes: in [0, trials].
        trials: of other teams' rows, as many as are left after the noise that they cross with (`sharing.py`).
    """

    team: str
    policy: str
    key: str
    text_hash: str | None
    version: int
    successes: float
    trials: float
    rows: int

    @property
    def identity(self) -> str:
        """What makes two prompts the same: their text where it is known, otherwise their key within their team."""
        return self.text_hash or f"{self.team}\x00{self.key}"


@dataclass(frozen=True, slots=True)
class Public:
    """What crosses of one row of another team's shared policy.

    Attributes:
        text_hash: hash of its prompt's text, None where no text is known.
        successes: with noise, so it may lie outside [0, trials].
        blur: variance of that noise.
        serial: its place in its policy.
    """

    version: int
    text_hash: str | None
    trials: int
    successes: float
    blur: float
    serial: int


@dataclass(frozen=True, slots=True)
class Known:
    """What a policy has of one prompt: rows of all versions, and the cells of the newest versions, newest first."""

    rows: int
    cells: list[Cell]


@dataclass(frozen=True, slots=True)
class Level:
    """Sums over the evidence rows of one version of a policy; `rates` are successes / trials of a row."""

    version: int
    rows: int
    trials: int
    successes: float
    rates: float
    squared_rates: float
    within: float
    within_rows: int
    inverse_trials: float


@dataclass(frozen=True, slots=True)
class Scores:
    """Sums over evidence rows of one version whose value had been given before, within one tenth of [0, 1]."""

    version: int
    bin: int
    rows: int
    values: float
    rates: float
    squared_rates: float
    squared_errors: float
    inverse_trials: float
