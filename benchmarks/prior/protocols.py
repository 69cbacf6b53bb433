"""Which evidence a key's held-back targets are judged by: the rows of the table in the method's section on the prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.prior.data import Key, Outcomes, Row, Split

FEW = 32
"""Own rows of a new policy: one small training step."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """A name, what it stands for, how to choose evidence, and the reference: AUC, raw error, explained variance."""

    name: str
    meaning: str
    evidence: Callable[[Outcomes, Split, Key], list[Row]]
    reference: tuple[float, float, float]


def _others(outcomes: Outcomes, split: Split, key: Key, *, unseen: bool, same_policy: bool = True) -> list[Row]:
    targets = {row.prompt for row in split.targets[key]}
    return [
        row
        for other, rows in outcomes.rows.items()
        if other != key and (same_policy or other[0] != key[0])
        for row in rows
        if not (unseen and row.prompt in targets)
    ]


def _own(_outcomes: Outcomes, split: Split, key: Key) -> list[Row]:
    return split.evidence[key]


def _pooled(outcomes: Outcomes, split: Split, key: Key) -> list[Row]:
    return _own(outcomes, split, key) + _others(outcomes, split, key, unseen=True)


def _recurring(outcomes: Outcomes, split: Split, key: Key) -> list[Row]:
    return _own(outcomes, split, key) + _others(outcomes, split, key, unseen=False)


def _few(_outcomes: Outcomes, split: Split, key: Key) -> list[Row]:
    return split.evidence[key][:FEW]


def _new(outcomes: Outcomes, split: Split, key: Key) -> list[Row]:
    return _few(outcomes, split, key) + _others(outcomes, split, key, unseen=True, same_policy=False)


PROTOCOLS = (
    Protocol("own", "same policy and version only", _own, (0.617, 0.519, 0.04)),
    Protocol("pooled", "and all other keys, target prompts unseen anywhere", _pooled, (0.71, 0.46, 0.16)),
    Protocol("recurring", "and all other keys, target prompts where others met them", _recurring, (0.767, 0.417, 0.25)),
    Protocol("few", "a new policy: 32 own rows alone", _few, (0.552, 0.557, -0.03)),
    Protocol("new", "32 own rows and the other policy, target prompts unseen", _new, (0.705, 0.478, 0.13)),
)
