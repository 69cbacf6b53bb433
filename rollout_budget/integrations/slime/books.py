"""The books of slime's rollout process: one session, groups by slime's own `group_index`, advantages on the samples.

Owns how slime's samples look: rewards, outcomes, ids. Loads nothing of slime.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rollout_budget.errors import InvalidInput
from rollout_budget.integrations.shared import Verdict, prompt_of, spread
from rollout_budget.session import Drawn, Group, Prompt, Session

SECTION = "rollout_budget"
"""Key of the settings in the file of `--custom-config-path`, whose keys slime sets on its arguments."""
MARK = "rollout_budget_advantage"
"""Key in a sample's metadata: its advantage. There it follows the sample through copies and other processes."""
REWARD = "reward"
"""Key of the settings: path of the user's own reward function."""
Sample = Any
"""`slime.utils.types.Sample`."""


class Books:
    """Session and settings of a training.

    Args:
        args: slime's arguments; `rollout_budget` among them is a mapping with `run`, perhaps `outcome`,
            `outcome_above`, `prompt_key`, and further fields of the run's declaration.

    Raises:
        InvalidInput: the run has no name, or a rule does not exist or is out of its bounds.
        Unauthorized: the team's key is not good.
    """

    def __init__(self, args: Any) -> None:
        rules = dict(getattr(args, SECTION, None) or {})
        if not rules.get("run"):
            raise InvalidInput(f"slime's arguments name no run: add {SECTION}: {{run: NAME}} to --custom-config-path")
        run, named, above = rules.pop("run"), rules.pop("outcome", None), rules.pop("outcome_above", None)
        self._key: str | None = rules.pop("prompt_key", None)
        rules.pop(REWARD, None)
        if getattr(args, "n_samples_per_prompt", 1) > 1:
            size = args.n_samples_per_prompt
            rules = {"k_init": size, "k_max": size, "stopping": "fixed", **rules}
        self._per_step = int(args.rollout_batch_size)
        self._reward: str | None = getattr(args, "reward_key", None)
        self.session = Session(str(run), **rules).__enter__()
        atexit.register(self.session.__exit__, None, None, None)
        self._verdict = Verdict(self.session.spec.outcome_range, named, None if above is None else float(above))

    def book(self, samples: Iterable[Sample]) -> None:
        """Report the groups of samples that are not in the books yet, each whole, and put advantages on the samples.

        Raises:
            InvalidInput: an outcome lies outside the declared range, or samples have no `group_index`.
        """
        versions: dict[int, dict[int, dict[Any, list[Sample]]]] = {}
        for place, sample in enumerate(samples):
            if MARK not in (sample.metadata or {}):
                groups = versions.setdefault(self.version(sample), {})
                groups.setdefault(sample.group_index, {}).setdefault(_rollout(sample, place), []).append(sample)
        for version, groups in versions.items():
            rollouts = [list(group.values()) for group in groups.values()]
            drawn = [self._drawn(group) for group in rollouts]
            scored = self.session.score(drawn, version=version)
            for group, parts in zip(scored, rollouts, strict=True):
                self.mark(group, parts)

    def version(self, sample: Sample) -> int:
        """Return the version of the weights: groups begun by slime's own count, which a restart goes on with, by step.

        Raises:
            InvalidInput: the sample has no `group_index`.
        """
        if sample.group_index is None:
            raise InvalidInput("slime's samples have no group_index: let the data source number its groups")
        return int(sample.group_index) // self._per_step

    def prompt(self, sample: Sample) -> Prompt:
        """Return a sample's prompt: its key from its metadata where `prompt_key` names one there, else a hash."""
        named = (sample.metadata or {}).get(self._key) if self._key else None
        return prompt_of({"prompt": sample.prompt, "key": named}, group=f"g{sample.group_index}", key="key")

    def reward(self, sample: Sample) -> float | None:
        """Return the reward that the loss uses; None where slime could not tell it."""
        value = sample.reward
        if isinstance(value, Mapping):
            value = value.get(self._reward) if self._reward else None
        return None if value is None else float(value)

    def outcome(self, sample: Sample) -> float | None:
        """Return the verifiable outcome; None where there is none.

        Raises:
            InvalidInput: it was said to be in the reward or in the metadata, and is not.
        """
        told = {**(sample.metadata or {}), **(sample.reward if isinstance(sample.reward, Mapping) else {})}
        return self._verdict.of(self.reward(sample), told)

    def mark(self, group: Group, rollouts: Sequence[Sequence[Sample]]) -> None:
        """Put the advantages of a closed group on its samples; those of one rollout get the same."""
        verified = [self.reward(parts[-1]) is not None for parts in rollouts]
        for parts, advantage in zip(rollouts, spread(group.advantages, verified), strict=True):
            for sample in parts:
                sample.metadata = {**(sample.metadata or {}), MARK: advantage}  # slime's copies share one dictionary

    def _drawn(self, rollouts: Sequence[Sequence[Sample]]) -> Drawn:
        """A rollout that slime split into several samples has the reward of its last."""
        lasts = [parts[-1] for parts in rollouts]
        outcomes = [self.outcome(sample) for sample in lasts]
        known = [one for one in outcomes if one is not None]
        rewards = [one for one in map(self.reward, lasts) if one is not None]
        tokens = sum(int(sample.response_length) for parts in rollouts for sample in parts)
        return Drawn(self.prompt(lasts[0]), known, rewards, lost=len(lasts) - len(known), tokens=tokens)


class _Seat:
    """Holds this process's books."""

    books: Books | None = None
    lock = threading.Lock()


def books_of(args: Any) -> Books:
    """Return the books of this process; the first call declares the run. A child of a fork has its own."""
    with _Seat.lock:
        if _Seat.books is None:
            _Seat.books = Books(args)
        return _Seat.books


def leave() -> None:
    """End the session, and forget it."""
    with _Seat.lock:
        books, _Seat.books = _Seat.books, None
    if books is not None:
        atexit.unregister(books.session.__exit__)
        books.session.__exit__(None, None, None)


def _forked() -> None:
    _Seat.books, _Seat.lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forked)


def _rollout(sample: Sample, place: int) -> Any:
    """Return what samples of one rollout have in common: slime's `rollout_id`; else each is one of its own."""
    number = getattr(sample, "rollout_id", None)
    return ("alone", place) if number is None else number
