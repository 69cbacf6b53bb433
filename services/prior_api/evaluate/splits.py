"""Which rows are held back, and which evidence they are judged by. Pure; every draw comes from a seed.

Each policy and version (a key) is cut at random into its own evidence and targets. A protocol then says which rows a
head may learn from when it judges the targets of one key; the targets themselves are the same under every protocol, so
that protocols can be compared. The targets' own rows are in no support; `Protocol.support` is the one door to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.prior_api.evaluate.data import Key, Outcomes, Row

FEW = 32
"""Own rows of a new policy: one small training step."""
MIN_TARGETS = 16
"""Fewer held-back rows than this say nothing about a key."""


@dataclass(frozen=True, slots=True)
class Split:
    """One random cut of every key: `evidence` may be learned from, `targets` are held back under that key."""

    evidence: dict[Key, list[Row]]
    targets: dict[Key, list[Row]]


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is held out, beside the targets themselves.

    Attributes:
        name: as in reports.
        meaning: what evidence there is, in words.
        unseen: whether no row of the support speaks of a target's prompt.
        support: rows that may be learned from, given outcomes, split and the key whose targets are judged.
        applies: whether the question makes sense for a key: a newest version needs an older one, and so on.
    """

    name: str
    meaning: str
    unseen: bool
    support: Callable[[Outcomes, Split, Key], list[Row]]
    applies: Callable[[Outcomes, Key], bool]


def split(outcomes: Outcomes, seed: int, size: int) -> Split:
    """Take `size` random rows of each key as evidence and as many others as targets; halves where there are fewer."""
    rng = np.random.default_rng(seed)
    evidence, targets = {}, {}
    for key, rows in outcomes.rows.items():
        order = rng.permutation(len(rows))
        most = min(size, len(rows) // 2)
        evidence[key] = [rows[place] for place in order[:most]]
        targets[key] = [rows[place] for place in order[most : most + size]]
    return Split(evidence, targets)


def judged(outcomes: Outcomes, split: Split, protocol: Protocol, most: int) -> list[Key]:
    """Return at most `most` keys that a protocol is about: the policies in turn, newest versions first, spread out."""
    by_policy: dict[str, list[Key]] = {}
    for key in reversed(outcomes.rows):
        if len(split.targets[key]) >= MIN_TARGETS and protocol.applies(outcomes, key):
            by_policy.setdefault(key[0], []).append(key)
    chosen: list[Key] = []
    for place, keys in enumerate(by_policy.values()):
        part = min(len(keys), (most - len(chosen)) // (len(by_policy) - place))
        chosen += [keys[index] for index in np.linspace(0, len(keys) - 1, part).round().astype(int)]
    return sorted(chosen)


def _own(_outcomes: Outcomes, split: Split, key: Key) -> list[Row]:
    return split.evidence[key]


def _few(_outcomes: Outcomes, split: Split, key: Key) -> list[Row]:
    return split.evidence[key][:FEW]


def _none(_outcomes: Outcomes, _split: Split, _key: Key) -> list[Row]:
    return []


def _support(
    own: Callable[[Outcomes, Split, Key], list[Row]], other: Callable[[Key, Key], bool], *, unseen: bool
) -> Callable[[Outcomes, Split, Key], list[Row]]:
    """Join `own` rows of the judged key with all rows of every key that `other(it, judged key)` lets in."""

    def rows(outcomes: Outcomes, split: Split, key: Key) -> list[Row]:
        targets = {row.prompt for row in split.targets[key]} if unseen else set()
        return own(outcomes, split, key) + [
            row
            for candidate, candidates in outcomes.rows.items()
            if candidate != key and other(candidate, key)
            for row in candidates
            if row.prompt not in targets
        ]

    return rows


def _any(_candidate: Key, _key: Key) -> bool:
    return True


def _earlier(candidate: Key, key: Key) -> bool:
    return candidate[1] < key[1]


def _other_policy(candidate: Key, key: Key) -> bool:
    return candidate[0] != key[0]


def _always(_outcomes: Outcomes, _key: Key) -> bool:
    return True


def _has_others(outcomes: Outcomes, _key: Key) -> bool:
    return len(outcomes.rows) > 1


def _newest(outcomes: Outcomes, key: Key) -> bool:
    versions = [version for policy, version in outcomes.rows if policy == key[0]]
    return len(versions) > 1 and key[1] == max(versions)


def _has_other_policies(outcomes: Outcomes, _key: Key) -> bool:
    return len(outcomes.policies) > 1


PROTOCOLS = (
    Protocol("own", "same policy and version only", True, _own, _always),
    Protocol(
        "unseen",
        "and all other keys, target prompts unseen anywhere",
        True,
        _support(_own, _any, unseen=True),
        _has_others,
    ),
    Protocol(
        "recurring",
        "and all other keys, target prompts where others met them",
        False,
        _support(_own, _any, unseen=False),
        _has_others,
    ),
    Protocol(
        "version",
        "newest version of a policy from earlier versions of all, prompts may recur",
        False,
        _support(_none, _earlier, unseen=False),
        _newest,
    ),
    Protocol("few", f"a new policy: {FEW} own rows alone", True, _few, _has_other_policies),
    Protocol(
        "new",
        f"{FEW} own rows and the other policies, target prompts unseen",
        True,
        _support(_few, _other_policy, unseen=True),
        _has_other_policies,
    ),
    Protocol(
        "new-recurring",
        f"{FEW} own rows and the other policies, target prompts where they met them",
        False,
        _support(_few, _other_policy, unseen=False),
        _has_other_policies,
    ),
    Protocol(
        "zero-shot",
        "a new policy without rows, from the others, target prompts unseen",
        True,
        _support(_none, _other_policy, unseen=True),
        _has_other_policies,
    ),
    Protocol(
        "zero-shot-recurring",
        "a new policy without rows, from the others, target prompts where they met them",
        False,
        _support(_none, _other_policy, unseen=False),
        _has_other_policies,
    ),
)
