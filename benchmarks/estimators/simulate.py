"""One method on one stream: waves until every group stops, the reliability of the prior learned online.

The order of a batch is that of a run: first wave and further waves decided by what was learned before the batch, then
the batch enters the run's reliability, its first waves and its whole groups each where they belong. With groups of one
fixed size what was learned depends on that size alone, so methods share it; methods that decide each group by itself
take the whole stream at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from benchmarks.estimators.methods import Method
from benchmarks.estimators.stream import Stream
from benchmarks.estimators.variants import Variant
from rollout_budget import allocation
from rollout_budget.baselines.base import BoolArray
from rollout_budget.decisions import Rules, first_wave, next_wave
from rollout_budget.groups import Groups, IntArray
from rollout_budget.outcomes import FloatArray
from rollout_budget.reliability import Reliability


@dataclass(frozen=True, slots=True)
class Final:
    """Where all groups of a stream ended: `given_up` ones are replaced by the trainer."""

    groups: Groups
    value: FloatArray
    per_sample: FloatArray
    given_up: BoolArray


@dataclass(frozen=True, slots=True)
class Learned:
    """What runs knew before each batch, by variant and size of their groups; shared by the methods of one stream."""

    stream: Stream
    states: dict[tuple[str, int], list[Reliability]] = field(default_factory=dict)

    def before(self, variant: Variant, size: int) -> list[Reliability]:
        """Return one state per batch for groups of one fixed size."""
        key = variant.name, size
        if key not in self.states:
            state, found = variant.start(), []
            for batch in range(self.stream.length.batches):
                found.append(state)
                part = self.stream.batch(batch)
                groups = self.stream.drawn(part, np.full(self.stream.length.size, size, dtype=np.int64))
                state = variant.learn(state, groups, groups, batch)
            self.states[key] = found
        return self.states[key]


def run(method: Method, learned: Learned) -> Final:
    """Return where a method's groups end."""
    stream, rules = learned.stream, method.rules
    if method.alone:
        return _finish(rules, stream, slice(None), Reliability())
    batches = range(stream.length.batches)
    if not method.learns:
        return _joined([_finish(rules, stream, stream.batch(batch), Reliability()) for batch in batches])
    size = rules.stopping.first(rules.k_init, rules.k_max)
    if size is not None and size >= rules.k_max:
        states = learned.before(method.variant, size)
        return _joined([_finish(rules, stream, stream.batch(batch), states[batch]) for batch in batches])
    parts = []
    state = method.variant.start()
    for batch in batches:
        part = stream.batch(batch)
        first = _first(rules, stream, part, state)
        parts.append(_finish(rules, stream, part, state, first))
        state = method.variant.learn(state, stream.drawn(part, first), parts[-1].groups, batch)
    return _joined(parts)


def _first(rules: Rules, stream: Stream, part: slice, state: Reliability) -> IntArray:
    """Return first waves; a size that the settings alone fix needs no plan."""
    size, count = rules.stopping.first(rules.k_init, rules.k_max), stream.prior[part].size
    if size is not None and not rules.stopping.pooled:
        return np.full(count, size, dtype=np.int64)
    unseen = stream.drawn(part, np.zeros(count, dtype=np.int64))
    return first_wave(rules, unseen, state).wanted


def _finish(rules: Rules, stream: Stream, part: slice, state: Reliability, first: IntArray | None = None) -> Final:
    """Draw wave after wave until every group stops; baselines are needed at the end alone."""
    sizes = _first(rules, stream, part, state) if first is None else first
    while True:
        groups = stream.drawn(part, sizes)
        more = allocation.wanted(rules.stopping.worth(groups, state, rules.k_max), rules.price)
        if not more.any():
            plan = next_wave(rules, groups, state)
            return Final(groups, plan.baselines.value, plan.baselines.per_sample, plan.given_up)
        sizes = sizes + more


def _joined(parts: list[Final]) -> Final:
    groups = [part.groups for part in parts]
    whole = Groups(
        np.concatenate([group.prior for group in groups]),
        np.concatenate([group.prior_error for group in groups]),
        np.concatenate([group.sizes for group in groups]),
        np.concatenate([group.outcomes for group in groups]),
    )
    return Final(
        whole,
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.per_sample for part in parts]),
        np.concatenate([part.given_up for part in parts]),
    )
