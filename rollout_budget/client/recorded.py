"""The allocator with no server and yet with a memory: a file of its calls, from which it rises again as it was.

    allocator = await RecordedAllocator.restored(Path("runs/mine/allocator.jsonl"))

Owns the file: one line a call that changed something, written after the call and before its answer is given, with what the
prior source said meanwhile and the time. Restoring makes the same calls on an empty allocator; the engine does the same
again, since values and time come from the file. An unfinished last line is a call whose caller never had an answer.

A killed process loses nothing; a machine that loses power may lose the last calls, which callers can repeat. One process
at a time; a service keeps many runs of many teams, this keeps the runs of one trainer.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel

from rollout_budget.client.local import LocalAllocator
from rollout_budget.engine import HistoryPrior
from rollout_budget.engine.ports import PriorSource
from rollout_budget.errors import InvalidInput, ServiceError, Unavailable
from rollout_budget.ledger.memory import Clock, steady_clock
from rollout_budget.lines import append_line, read_lines
from rollout_budget.wire import (
    CloseAnswer,
    CloseRequest,
    EvidenceRow,
    HeartbeatAnswer,
    ObserveAnswer,
    ObserveRequest,
    OpenAnswer,
    OpenRequest,
    PlanAnswer,
    PlanRequest,
    PriorModel,
    Prompt,
    Run,
    RunPatch,
    RunSpec,
    TeamLimits,
    ValuesAnswer,
)

BODIES: Mapping[str, type[BaseModel]] = {
    "create_run": RunSpec,
    "patch_run": RunPatch,
    "plan": PlanRequest,
    "open": OpenRequest,
    "observe": ObserveRequest,
    "close": CloseRequest,
}
"""Calls with a body; `finish_run` and `heartbeat` have none."""

Answer = TypeVar("Answer")
Heard = ValuesAnswer | str
_heard: ContextVar[list[Heard] | None] = ContextVar("heard", default=None)
"""What the prior source said during the call of this task; a text says why it failed."""


class RecordedAllocator(LocalAllocator):
    """Obeys `rollout_budget.client.base.Allocator`. Make it with `restored`."""

    def __init__(
        self,
        path: Path,
        team: str = "local",
        priors: PriorSource | None = None,
        limits: TeamLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = _Clock(clock or steady_clock())
        self._source = _Source(priors or HistoryPrior())
        self._replaying = False
        self._path = path
        super().__init__(team, self._source, limits, self._clock)

    @classmethod
    async def restored(
        cls,
        path: Path,
        team: str = "local",
        priors: PriorSource | None = None,
        limits: TeamLimits | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """Return an allocator that goes on from the calls in a file; one that is not there yet is made.

        Args:
            path: the file; its folder exists.
            team: see `LocalAllocator`, as for the rest; limits and clock are not in the file.
            priors: where priors come from.
            limits: the team's limits.
            clock: the time of what is new.

        Raises:
            InvalidInput: the file is no such record.
        """
        allocator = cls(path, team, priors, limits, clock)
        await allocator._replay(read_lines(path))
        return allocator

    async def create_run(self, spec: RunSpec) -> Run:
        """See `Allocator`."""
        return self._done("create_run", spec.run_id, spec, await super().create_run(spec))

    async def patch_run(self, run_id: str, patch: RunPatch) -> Run:
        """See `Allocator`."""
        return self._done("patch_run", run_id, patch, await super().patch_run(run_id, patch))

    async def finish_run(self, run_id: str) -> Run:
        """See `Allocator`."""
        run = self._done("finish_run", run_id, None, await self._engine.finish_run(self._team, run_id))
        await self._deliver()
        return run

    async def plan(self, run_id: str, request: PlanRequest) -> PlanAnswer:
        """See `Allocator`."""
        _heard.set([])
        return self._done("plan", run_id, request, await super().plan(run_id, request))

    async def open(self, run_id: str, request: OpenRequest) -> OpenAnswer:
        """See `Allocator`."""
        _heard.set([])
        return self._done("open", run_id, request, await super().open(run_id, request))

    async def observe(self, run_id: str, request: ObserveRequest) -> ObserveAnswer:
        """See `Allocator`."""
        return self._done("observe", run_id, request, await super().observe(run_id, request))

    async def close(self, run_id: str, request: CloseRequest) -> CloseAnswer:
        """See `LocalAllocator.close`."""
        answer = self._done("close", run_id, request, await self._engine.close(self._team, run_id, request))
        await self._deliver()
        return answer

    async def heartbeat(self, run_id: str) -> HeartbeatAnswer:
        """See `Allocator`."""
        return self._done("heartbeat", run_id, None, await super().heartbeat(run_id))

    def _done(self, call: str, run_id: str, body: BaseModel | None, answer: Answer) -> Answer:
        """Write down a call that succeeded. Nothing waits between its transaction and this, so the order is theirs."""
        if not self._replaying:
            line: dict[str, Any] = {"at": self._clock(), "call": call, "run": run_id}
            if body is not None:
                line["body"] = body.model_dump(mode="json", exclude_unset=True)
            if heard := _heard.get():
                line["values"] = [item if isinstance(item, str) else item.model_dump(mode="json") for item in heard]
            append_line(self._path, line)
        _heard.set(None)
        return answer

    async def _deliver(self) -> None:
        """Hand evidence over; while replaying that waits for the end, as values come from the file."""
        if not self._replaying:
            await self._engine.deliver_evidence()

    async def _replay(self, lines: Sequence[bytes]) -> None:
        self._replaying = True
        for number, line in enumerate(lines, start=1):
            try:
                item = json.loads(line)
                self._clock.at, name = float(item["at"]), str(item["call"])
                body = BODIES[name].model_validate(item["body"]) if name in BODIES else None
                self._source.say = deque(map(_read, item.get("values", ())))
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidInput(f"{self._path} line {number} is no call of an allocator: {error}") from error
            whose = () if name == "create_run" else (item["run"],)
            await getattr(self, name)(*whose, *(() if body is None else (body,)))
        self._replaying, self._source.say, self._clock.at = False, None, None
        while await self._engine.deliver_evidence():
            pass


class _Source:
    """The prior source behind a record: says what the file has while there is a file to follow. Obeys `PriorSource`."""

    def __init__(self, source: PriorSource) -> None:
        self._source = source
        self.say: deque[Heard] | None = None

    async def values(
        self, team: str, policy: str, version: int, prompts: Sequence[Prompt], model: PriorModel
    ) -> ValuesAnswer:
        if self.say is not None:
            return _told(self.say.popleft())
        try:
            said: Heard = await self._source.values(team, policy, version, prompts, model)
        except ServiceError as error:
            said = str(error)
        heard = _heard.get()
        if heard is not None:
            heard.append(said)
        return _told(said)

    async def add_evidence(self, team: str, policy: str, rows: Sequence[EvidenceRow]) -> None:
        await self._source.add_evidence(team, policy, rows)


def _read(item: Any) -> Heard:
    return item if isinstance(item, str) else ValuesAnswer.model_validate(item)


def _told(said: Heard) -> ValuesAnswer:
    if isinstance(said, str):
        raise Unavailable(said)
    return said


class _Clock:
    """The time of the call that is made again, else now; never runs backwards, not even across processes."""

    def __init__(self, now: Clock) -> None:
        self.at: float | None = 0.0  # nothing has happened yet
        self._now = now
        self._last = 0.0

    def __call__(self) -> float:
        self._last = max(self._last, self._now() if self.at is None else self.at)
        return self._last
