"""A cap that binds, through the real engine and ledger: rollouts by worth against the same number for every group.

Both draw exactly `each` rollouts per group over a step. By worth: half of them in first waves, the price at 0, so that
every group asks for all it may have and the ledger's `share` decides under a limit per step. Evenly: `each` for all.
"""

from __future__ import annotations

import asyncio

import numpy as np

from benchmarks.estimators.stream import Stream
from rollout_budget.client import LocalAllocator
from rollout_budget.decisions import PAPER_RANGE
from rollout_budget.outcomes import FloatArray
from rollout_budget.wire import (
    CloseGroup,
    CloseRequest,
    ObserveGroup,
    ObserveRequest,
    OpenGroup,
    OpenRequest,
    RunLimits,
    RunSpec,
    SuppliedPrior,
)


def spec(stream: Stream, each: int, *, by_worth: bool) -> RunSpec:
    """Return the run: outcomes 0 and 1; all else as shipped."""
    if not by_worth:
        return RunSpec(run_id="even", policy="p", stopping="fixed", k_init=each, k_max=each)
    limits = RunLimits(rollouts_per_step=each * stream.length.size)
    return RunSpec(run_id="worth", policy="p", price=0.0, k_init=max(1, each // 2), limits=limits)


async def _step(allocator: LocalAllocator, run: str, stream: Stream, step: int) -> tuple[float, int]:
    part = stream.batch(step)
    names = {f"{place}": place for place in range(part.start, part.stop)}
    opened = await allocator.open(
        run,
        OpenRequest(
            groups=[
                OpenGroup(group_id=name, prompt_key=name, step=step, prior=_prior(stream, place))
                for name, place in names.items()
            ]
        ),
    )
    sizes = {group.group_id: group.grant for group in opened.groups}
    values = {group.group_id: group.prior for group in opened.groups}
    asking = list(names)
    while asking:
        reports = [
            ObserveGroup(group_id=name, outcomes=stream.outcomes[names[name], : sizes[name]].tolist())
            for name in asking
        ]
        answer = await allocator.observe(run, ObserveRequest(groups=reports))
        values |= {group.group_id: group.baseline for group in answer.groups}
        asking = [group.group_id for group in answer.groups if group.more]
        for group in answer.groups:
            sizes[group.group_id] += group.more
    await allocator.close(
        run, CloseRequest(groups=[CloseGroup(group_id=name, used=used) for name, used in sizes.items()])
    )
    found = np.array([values[name] for name in names])
    return float(np.sum((found - stream.truth[part]) ** 2)), sum(sizes.values())


def _prior(stream: Stream, place: int) -> SuppliedPrior:
    error = float(stream.prior_error[place])
    return SuppliedPrior(value=float(stream.prior[place]), standard_error=error if np.isfinite(error) else None)


async def _total(stream: Stream, each: int, *, by_worth: bool) -> tuple[float, int]:
    declared, allocator = spec(stream, each, by_worth=by_worth), LocalAllocator()
    await allocator.create_run(declared)
    steps = [await _step(allocator, declared.run_id, stream, step) for step in range(stream.length.batches)]
    counted = steps[stream.length.warm_up :]
    return PAPER_RANGE.squared_from_unit(sum(error for error, _ in counted)), sum(used for _, used in counted)


def compare(stream: Stream, each: int) -> FloatArray:
    """Return total squared error by worth and evenly, and the rollouts of both; steps of the warm-up do not count."""
    worth, even = (asyncio.run(_total(stream, each, by_worth=flag)) for flag in (True, False))
    return np.array([worth[0], even[0], worth[1], even[1]])
