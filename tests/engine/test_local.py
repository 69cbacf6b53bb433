"""The allocator with no server: what its docstring shows works, and its synchronous twin is the same."""

from __future__ import annotations

import asyncio
import inspect
import textwrap

import pytest

from rollout_budget.client import base, local
from rollout_budget.client.local import LocalAllocator, SyncLocalAllocator, run_now
from rollout_budget.wire import (
    CloseGroup,
    CloseRequest,
    ObserveGroup,
    ObserveRequest,
    OpenGroup,
    OpenRequest,
    RunSpec,
    TeamLimits,
)


def test_the_example_of_the_docstring_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """A user can start with what is written there."""
    lines = inspect.getdoc(local)
    assert lines is not None
    example = textwrap.dedent("\n".join(line for line in lines.splitlines() if line.startswith("    ")))
    exec(compile(example, "example", "exec"), {})  # noqa: S102  the documentation's own code
    action, more, *advantages = capsys.readouterr().out.split()
    assert (action, int(more)) == ("stop", 0)
    assert len(advantages) == 5


def names(kind: type) -> dict[str, list[str]]:
    """Return the public methods of a class and their parameters."""
    return {
        name: list(inspect.signature(method).parameters)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def test_both_twins_have_the_protocol_s_methods() -> None:
    """Not one missing, not one renamed."""
    protocol = names(base.Allocator)
    asynchronous = names(LocalAllocator)
    assert asynchronous.pop("sync") == ["self"]
    assert asynchronous == protocol
    assert names(SyncLocalAllocator) == protocol


def test_history_feeds_the_next_prior_in_process() -> None:
    """What a group taught is the prior of the next with the same prompt."""
    allocator = LocalAllocator().sync()
    allocator.create_run(RunSpec(run_id="r", policy="p", k_init=4))
    for attempt in range(2):
        group = OpenGroup(group_id=f"g{attempt}", prompt_key="k")
        opened = allocator.open("r", OpenRequest(groups=[group])).groups[0]
        report = ObserveGroup(group_id=group.group_id, outcomes=[1.0] * 4)
        allocator.observe("r", ObserveRequest(groups=[report]))
        allocator.close("r", CloseRequest(groups=[CloseGroup(group_id=group.group_id, used=4)]))
    assert opened.prior > 0.8
    assert allocator.usage(["run"]).rows[0].counts.committed == 8
    assert allocator.budget().usage == allocator.get_run("r").usage


def test_the_twins_share_one_allocator() -> None:
    """`sync` is a view, not a copy."""
    allocator = LocalAllocator(team="mine", limits=TeamLimits(rollouts=3))
    allocator.sync().create_run(RunSpec(run_id="r", policy="p"))
    request = OpenRequest(groups=[OpenGroup(group_id="g", prompt_key="k")])
    assert asyncio.run(allocator.open("r", request)).groups[0].grant == 3
    assert allocator.sync().budget().team == "mine"
    assert allocator.sync().budget().available == 0


def test_a_call_that_has_to_wait_says_what_to_do() -> None:
    """A prior source over a network cannot serve callers without an event loop."""
    with pytest.raises(RuntimeError, match="LocalAllocator with await"):
        run_now(asyncio.sleep(0, "never"))


async def test_tasks_take_turns() -> None:
    """Two hundred tasks on one allocator: every rollout is accounted for."""
    allocator = LocalAllocator(limits=TeamLimits(rollouts=500))
    await allocator.create_run(RunSpec(run_id="r", policy="p"))

    async def one(number: int) -> int:
        request = OpenRequest(groups=[OpenGroup(group_id=f"g{number}", prompt_key=f"k{number}")])
        return (await allocator.open("r", request)).groups[0].grant

    grants = await asyncio.gather(*(one(number) for number in range(200)))
    assert sum(grants) == 500
    assert (await allocator.budget()).usage.reserved == 500
