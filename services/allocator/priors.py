"""The prior service behind the engine's `PriorSource` port: values and evidence, each with its deadline and breaker.

A trainer never waits for a prior service that is away: after failures calls are answered at once with `Unavailable`
(the engine then serves the run's running mean and says so) until a probe has found the service back. Evidence is
delivered in the background; how slow it is says nothing of values, so neither kind of call is judged by the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from rollout_budget.client import PriorClient
from rollout_budget.client.breaker import Breaker
from rollout_budget.errors import RolloutBudgetError, ServiceError, Unavailable
from rollout_budget.wire import EvidenceRequest, EvidenceRow, PriorModel, Prompt, ValuesAnswer, ValuesRequest
from services.kit.edge import outside

Answer = TypeVar("Answer")
Item = TypeVar("Item")
EVIDENCE_DEADLINE_S = 10.0
"""Longest wait for one delivery of evidence: nobody waits for it, and a large batch is slow to store on a busy machine."""

NAMED_REFUSALS = 3
"""Refused prompts whose reason an answer tells in full; of further ones the number says enough."""

_log = structlog.get_logger(__name__)


class Guard:
    """One kind of call to a service: no wait beyond a deadline, and no call while the service counts as away.

    Args:
        deadline_s: longest wait for one answer.
        breaker: initial state and pace of the circuit breaker.
        clock: monotonic seconds.
    """

    def __init__(self, deadline_s: float, breaker: Breaker, clock: Callable[[], float]) -> None:
        self._deadline_s = deadline_s
        self._breaker = breaker
        self._clock = clock

    @property
    def ends(self) -> float:
        """When a call that starts now has to be over."""
        return self._clock() + self._deadline_s

    async def call(self, send: Callable[[], Awaitable[Answer]], ends: float | None = None) -> Answer:
        """Return the service's answer; `ends` is the deadline that several calls share, where one alone has its own.

        Raises:
            Unavailable: it counts as away, or there was no answer in time.
            RolloutBudgetError: what `send` raised; all but a `ServiceError` count as an answer.
        """
        if not self._breaker.allows(self._clock()):
            raise Unavailable("the prior service is away; it is asked again from time to time")
        left_s = self._deadline_s if ends is None else ends - self._clock()
        late = Unavailable(f"no answer of the prior service within {self._deadline_s} s")
        if left_s <= 0.0:
            raise late
        self._breaker = self._breaker.sent(self._clock())
        try:
            async with asyncio.timeout(left_s):
                answer = await send()
        except (TimeoutError, ServiceError) as error:
            self._breaker = self._breaker.failed(self._clock())
            if isinstance(error, TimeoutError):
                raise late from error
            raise
        except RolloutBudgetError:
            self._breaker = self._breaker.succeeded()
            raise
        self._breaker = self._breaker.succeeded()
        return answer


class RemotePriors:
    """Obeys `PriorSource` over HTTP.

    Args:
        client: a client of the prior service with a service's key; it should not retry by itself.
        deadline_s: longest wait for values.
        evidence_deadline_s: longest wait for one delivery of evidence.
        breaker: initial state and pace of both circuit breakers.
        clock: monotonic seconds.
        refused: told how many rows of a delivery the service refused for good.
    """

    def __init__(
        self,
        client: PriorClient,
        *,
        deadline_s: float,
        evidence_deadline_s: float = EVIDENCE_DEADLINE_S,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
        refused: Callable[[int], None] = lambda _rows: None,
    ) -> None:
        self._client = client
        breaker = breaker or Breaker(threshold=2)
        self._values = Guard(deadline_s, breaker, clock)
        self._evidence = Guard(evidence_deadline_s, breaker, clock)
        self._refused = refused

    async def values(
        self, team: str, policy: str, version: int, prompts: Sequence[Prompt], model: PriorModel
    ) -> ValuesAnswer:
        """Return one value per prompt but the refused ones; `ServiceError` where the service says nothing in time.

        What is asked anew after a refusal has the same deadline: what it cuts off has no value either.
        """
        answers: list[ValuesAnswer] = []
        reasons: list[str] = []
        ends = self._values.ends

        async def ask(batch: list[Prompt]) -> None:
            request = ValuesRequest(policy=policy, version=version, prompts=batch, model=model)
            async with outside():
                answers.append(await self._values.call(lambda: self._client.for_team(team).values(request), ends))

        try:
            refused = [str(error) for _, error in await _halved(prompts, ask)]
            reasons += refused[:NAMED_REFUSALS]
            if len(refused) > NAMED_REFUSALS:
                reasons.append(f"{len(refused) - NAMED_REFUSALS} further prompts were refused")
        except ServiceError as error:
            if not answers:
                raise
            reasons.append(str(error))
        if not answers:
            raise ServiceError(f"the prior service refused the request: {'; '.join(reasons)}")
        return _merged(prompts, answers, reasons)

    async def add_evidence(self, team: str, policy: str, rows: Sequence[EvidenceRow]) -> None:
        """Hand over evidence.

        Rows that the service refuses for good are logged by id, counted, and count as delivered, each once, when all
        others went through.
        """

        async def deliver(batch: list[EvidenceRow]) -> None:
            request = EvidenceRequest(rows=batch)
            await self._evidence.call(lambda: self._client.for_team(team).add_evidence(policy, request))

        refused = await _halved(rows, deliver)
        for row, error in refused:
            _log.error("evidence refused for good", team=team, policy=policy, id=row.id, code=error.code)
        self._refused(len(refused))


async def _halved(
    items: Sequence[Item], send: Callable[[list[Item]], Awaitable[None]]
) -> list[tuple[Item, RolloutBudgetError]]:
    """Send a batch; one that is refused for good is halved until the refused items stand alone. These are returned.

    Raises:
        ServiceError: the service could not be used; some of the batch may have been sent.
    """
    refused: list[tuple[Item, RolloutBudgetError]] = []
    batches = [list(items)]
    while batches:
        batch = batches.pop()
        try:
            await send(batch)
        except ServiceError:
            raise
        except RolloutBudgetError as error:
            if len(batch) == 1:
                refused.append((batch[0], error))
            else:
                middle = len(batch) // 2
                batches += [batch[middle:], batch[:middle]]
    return refused


def _merged(prompts: Sequence[Prompt], answers: Sequence[ValuesAnswer], reasons: Sequence[str]) -> ValuesAnswer:
    """Return the answers for the parts of a batch as one, in the order of `prompts`."""
    found = {value.key: value for answer in answers for value in answer.values}
    worst = max(answers, key=lambda answer: answer.degraded)
    details = [answer.detail for answer in answers if answer.detail]
    return worst.model_copy(
        update={
            "values": [found[prompt.key] for prompt in prompts if prompt.key in found],
            "detail": "; ".join(dict.fromkeys([*details, *reasons])),
        }
    )
