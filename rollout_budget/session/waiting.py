"""`AsyncSession`: the order of calls of a step, and what stands in when one of them fails.

Owns the run, the groups' way through open, observe and close, and the spare allocator in this process. Decides nothing:
sizes, baselines and grants are the allocator's answers.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakValueDictionary

from pydantic import ValidationError

from rollout_budget.client import Allocator, AllocatorClient, LocalAllocator, ResilientAllocator
from rollout_budget.client.notices import Notice, warn
from rollout_budget.engine.stateless import decide
from rollout_budget.errors import Conflict, InvalidInput, RolloutBudgetError, RunFinished
from rollout_budget.session.groups import Drawn, Group, Prompt, opening
from rollout_budget.session.tally import Tally
from rollout_budget.wire import (
    MAX_GROUPS,
    CloseRequest,
    DecideGroup,
    DecideRequest,
    Decision,
    DecisionSettings,
    ObserveRequest,
    OpenAnswer,
    OpenRequest,
    RunLimits,
    RunSpec,
    SuppliedPrior,
)

T = TypeVar("T")

URL, KEY = "ROLLOUT_BUDGET_URL", "ROLLOUT_BUDGET_KEY"
"""Environment variables of the service and of a team's key, as for the command line."""
LEASE_S = 900.0
"""How long grants are held without a report: longer than a wave of any size, short enough to return a dead trainer's."""
ATTEMPTS = 4
"""How often an id that is taken is tried again, each time as another attempt at the group."""
RECENT = 1_000_000
"""Starts of a run are told apart by their second, over the eleven days that fit into an attempt's number."""


class AsyncSession:
    """One run of one trainer, for `async with`.

    Args:
        run: id of the run, or its whole declaration.
        policy: name of the model that is trained; by default the run's id.
        url: where the allocator is; by default `$ROLLOUT_BUDGET_URL`, and without either this process decides.
        key: the team's key; by default `$ROLLOUT_BUDGET_KEY`.
        allocator: another way to an allocator, in place of `url` and `key`; it stays its maker's to close.
        journal: file for what the service could not be told, so that it outlives this process.
        notify: called with what a trainer should say: the service went away or came back, a limit is near, something
            was refused. Logged as a warning by default.
        finish: end the run when the block ends without an error; a run that was ended opens no more groups.
        rules: further fields of `RunSpec`: `outcome_range`, `estimator`, `stopping`, `k_init`, `k_max`, `limits`, ...

    Raises:
        InvalidInput: a rule does not exist or is out of its bounds, or a URL was given without a key.
        Unauthorized: on entering, if the key is not good.
    """

    def __init__(
        self,
        run: str | RunSpec,
        *,
        policy: str | None = None,
        url: str | None = None,
        key: str | None = None,
        allocator: Allocator | None = None,
        journal: Path | None = None,
        notify: Callable[[Notice], None] | None = None,
        finish: bool = False,
        **rules: Any,
    ) -> None:
        self.spec = run if isinstance(run, RunSpec) and not rules else _declared(run, policy, rules)
        self.attempt = 0
        self._url = None if allocator is not None else url or os.environ.get(URL)
        self._key = key or os.environ.get(KEY)
        if self._url is not None and not self._key:
            raise InvalidInput(f"the allocator at {self._url} needs a key: give key=..., or set {KEY}")
        self._given = allocator
        self._journal = journal
        self._notify = notify or warn
        self._finish = finish
        self._said: set[str] = set()
        self._opened: WeakValueDictionary[int, Group] = WeakValueDictionary()
        self._tally = Tally(self.spec.reference_group_size)
        self._exits = AsyncExitStack()
        self._allocator: Allocator = LocalAllocator()
        self._spare: LocalAllocator | None = None

    async def __aenter__(self) -> Self:
        """Declare the run; where the service is away, later."""
        async with self._exits as opened:
            if self._given is not None:
                self._allocator = self._given
            elif self._url is not None and self._key is not None:
                client = await opened.enter_async_context(AllocatorClient(self._url, self._key))
                self._allocator = ResilientAllocator(client, notify=self._notify, journal=self._journal)
            run = await self._allocator.create_run(self.spec)
            self._exits = opened.pop_all()
        if run.usage.granted or self.fallback_total:
            self.attempt = int(time.time()) % RECENT
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what is still open, and tell the service what it missed; end the run if asked to and nothing was raised."""
        try:
            await self.close(list(self._opened.values()))
            if self._finish and kind is None:
                await self._allocator.finish_run(self.spec.run_id)
            elif isinstance(self._allocator, ResilientAllocator):
                await self._allocator.flush()
        except RolloutBudgetError as failure:
            self._failed("the end of the run", failure)
        finally:
            await self._exits.__aexit__(kind, error, trace)

    @property
    def fallback_total(self) -> int:
        """Calls that were answered here because the service was away."""
        return self._allocator.fallback_total if isinstance(self._allocator, ResilientAllocator) else 0

    async def open(self, prompts: Sequence[Prompt | str], *, version: int, step: int | None = None) -> list[Group]:
        """Open a group for each prompt: its prior is frozen, its first wave granted (`want`).

        Args:
            prompts: with different group ids; a string is a key without a text.
            version: of the policy's weights that the rollouts come from, 0 or more.
            step: training step, for limits per step; by default the version.

        Raises:
            InvalidInput: two groups have the same id, or an identifier is out of bounds.
        """
        named = [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        groups = []
        for chunk in _chunks(named):
            groups += await self._open(chunk, version, version if step is None else step)
        return groups

    async def observe(self, groups: Sequence[Group]) -> list[Group]:
        """Report what was added; return the groups that want more, their `want` set anew.

        A group to which nothing was added since its last report wants nothing more: its trainer has given it up.
        """
        for group in groups:
            group.want = 0
        for some, allocator in self._calls([group for group in groups if group.unreported]):
            await self._observe(some, allocator)
        return [group for group in groups if group.want]

    async def waves(self, groups: Sequence[Group]) -> AsyncGenerator[list[Group], None]:
        """Give the groups that want rollouts, wave after wave; add to them before the next is asked for.

        Reports after each wave, and closes all groups at the end. So it does when the loop is left early: at once under
        `contextlib.aclosing`, else when Python ends the generator, at the latest with the session.
        """
        try:
            wanting = [group for group in groups if group.want]
            while wanting:
                yield wanting
                wanting = await self.observe(wanting)
        finally:
            await self.close(groups)

    async def close(self, groups: Sequence[Group]) -> None:
        """Commit what was drawn and give the rest back; outcomes become evidence. Again does nothing."""
        left = [group for group in groups if not group.closed]
        await self.observe([group for group in left if group.unreported])
        for some, allocator in self._calls(left):
            await self._close(some, allocator)
        ended = [group for group in left if not group.closed]  # another task may have closed some meanwhile
        for group in ended:
            group.want, group.closed = 0, True
        self._tally.add(ended)

    async def score(self, drawn: Sequence[Drawn], *, version: int, step: int | None = None) -> list[Group]:
        """Open, report and close groups that were drawn already: baselines and advantages at sizes of the trainer's own.

        What was drawn beyond a grant is booked as overage.
        """
        groups = await self.open([one.prompt for one in drawn], version=version, step=step)
        for group, one in zip(groups, drawn, strict=True):
            group.add(one.outcomes, one.rewards, lost=one.lost, tokens=one.tokens, seconds=one.seconds)
        await self.close(groups)
        return groups

    def metrics(self) -> dict[str, float]:
        """Return `budget/...` figures of all groups closed since the last reading."""
        return self._tally.read(self.fallback_total)

    async def _open(self, prompts: Sequence[Prompt], version: int, step: int) -> list[Group]:
        for attempt in range(self.attempt, self.attempt + ATTEMPTS):
            asked = _asked(prompts, version, step, attempt)
            try:
                answer = await self._allocator.open(self.spec.run_id, asked)
            except RunFinished as error:
                self._failed("open", error)
                break
            except Conflict:
                continue
            except RolloutBudgetError as error:
                self._failed("open", error)
                break
            return self._groups(prompts, answer, version, local=False)
        asked = _asked(prompts, version, step, self.attempt)
        answer = await (await self._ready_spare()).open(self.spec.run_id, asked)
        return self._groups(prompts, answer, version, local=True)

    def _groups(self, prompts: Sequence[Prompt], answer: OpenAnswer, version: int, *, local: bool) -> list[Group]:
        scale = self.spec.outcome_range.core()
        groups = [
            Group(prompt, one, version, scale, one.attempt, local=local, want=one.grant, granted=one.grant)
            for prompt, one in zip(prompts, answer.groups, strict=True)
        ]
        self._opened.update({id(group): group for group in groups})
        return groups

    async def _observe(self, groups: Sequence[Group], allocator: Allocator) -> None:
        request = ObserveRequest(groups=[group.report() for group in groups])
        try:
            decisions = (await allocator.observe(self.spec.run_id, request)).groups
        except RolloutBudgetError as error:
            self._failed("observe", error)
            decisions = self._decided_here(groups)
        else:
            for group, sent in zip(groups, request.groups, strict=True):
                group.taken(len(sent.outcomes))
        for group, decision in zip(groups, decisions, strict=True):
            group.heard(decision)

    def _decided_here(self, groups: Sequence[Group]) -> list[Decision]:
        """Return baselines of what was drawn, by the run's rules and their frozen priors; no further rollouts."""
        rules = self.spec.model_dump(include=set(DecisionSettings.model_fields))
        asked = [
            DecideGroup(
                group_id=group.id,
                prior=SuppliedPrior(value=group.prior, standard_error=group.opened.standard_error),
                outcomes=group.outcomes,
                rewards=group.rewards or None,
            )
            for group in groups
        ]
        return decide(DecideRequest(**rules, groups=asked, budget=0)).groups

    async def _close(self, groups: Sequence[Group], allocator: Allocator) -> None:
        try:
            await allocator.close(self.spec.run_id, CloseRequest(groups=[group.settlement() for group in groups]))
        except RolloutBudgetError as error:
            self._failed("close", error)

    def _calls(self, groups: Sequence[Group]) -> Iterator[tuple[list[Group], Allocator]]:
        """Give the groups of each call, with the allocator that opened them."""
        for chunk in _chunks(groups):
            for local, allocator in ((False, self._allocator), (True, self._spare)):
                some = [group for group in chunk if group.local is local]
                if some and allocator is not None:
                    yield some, allocator

    async def _ready_spare(self) -> LocalAllocator:
        """Return the allocator of this process, for groups that the service refused to open; it has no limits."""
        if self._spare is None:
            self._spare = LocalAllocator()
            await self._spare.create_run(self.spec.model_copy(update={"limits": RunLimits(), "pacing": None}))
        return self._spare

    def _failed(self, what: str, error: RolloutBudgetError) -> None:
        """Count a failure; say each kind once."""
        self._tally.errors += 1
        kind = f"{what} {error.code}"
        if kind not in self._said:
            self._said.add(kind)
            self._notify(Notice("refused", f"{what} of run {self.spec.run_id!r}: {error}; decided here"))


def _declared(run: str | RunSpec, policy: str | None, rules: dict[str, Any]) -> RunSpec:
    """Return the declaration of a run.

    Raises:
        InvalidInput: with the first fault.
    """
    base = {"run_id": run, "policy": policy or run} if isinstance(run, str) else run.model_dump(exclude_unset=True)
    try:
        return RunSpec.model_validate({**base, **rules})
    except ValidationError as error:
        raise _fault("run", error) from None


def _asked(prompts: Sequence[Prompt], version: int, step: int, attempt: int) -> OpenRequest:
    try:
        groups = [opening(prompt, version=version, step=step, attempt=attempt) for prompt in prompts]
        return OpenRequest(groups=groups, lease_s=LEASE_S)
    except ValidationError as error:
        raise _fault("groups", error) from None


def _fault(whole: str, error: ValidationError) -> InvalidInput:
    """Return the first fault; `whole` names what is wrong where no field is."""
    first = error.errors()[0]
    return InvalidInput(f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}")


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Give what fits into one call each."""
    for first in range(0, len(items), MAX_GROUPS):
        yield items[first : first + MAX_GROUPS]
