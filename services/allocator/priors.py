"""The prior service behind the engine's `PriorSource` port: one deadline, one circuit breaker.

A trainer never waits for a prior service that is away: after a failure calls are answered at once with `Unavailable`
(the engine then serves the run's running mean and says so) until a probe has found the service back.
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

Answer = TypeVar("Answer")
_log = structlog.get_logger(__name__)


class RemotePriors:
    """Obeys `PriorSource` over HTTP.

    Args:
        client: a client of the prior service with a service's key; it should not retry by itself.
        deadline_s: longest wait for one answer.
        breaker: initial state and pace of the circuit breaker.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client: PriorClient,
        *,
        deadline_s: float,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._deadline_s = deadline_s
        self._breaker = breaker or Breaker(threshold=2)
        self._clock = clock

    async def values(
        self, team: str, policy: str, version: int, prompts: Sequence[Prompt], model: PriorModel
    ) -> ValuesAnswer:
        """Return one value per prompt; `ServiceError` where the service cannot say in time or will not."""
        request = ValuesRequest(policy=policy, version=version, prompts=list(prompts), model=model)
        try:
            return await self._guarded(lambda: self._client.for_team(team).values(request))
        except ServiceError:
            raise
        except RolloutBudgetError as error:
            raise ServiceError(f"the prior service refused the request: {error}") from error

    async def add_evidence(self, team: str, policy: str, rows: Sequence[EvidenceRow]) -> None:
        """Hand over evidence. Rows that the service refuses for good are logged and count as delivered."""
        request = EvidenceRequest(rows=list(rows))
        try:
            await self._guarded(lambda: self._client.for_team(team).add_evidence(policy, request))
        except ServiceError:
            raise
        except RolloutBudgetError as error:
            _log.error("evidence refused for good", team=team, policy=policy, rows=len(rows), error=str(error))

    async def _guarded(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Call within the deadline, if the breaker lets it through, and tell the breaker how it went."""
        if not self._breaker.allows(self._clock()):
            raise Unavailable("the prior service is away; it is asked again from time to time")
        self._breaker = self._breaker.sent(self._clock())
        try:
            async with asyncio.timeout(self._deadline_s):
                answer = await call()
        except (TimeoutError, ServiceError) as error:
            self._breaker = self._breaker.failed(self._clock())
            if isinstance(error, TimeoutError):
                raise Unavailable(f"no answer of the prior service within {self._deadline_s} s") from error
            raise
        except RolloutBudgetError:
            self._breaker = self._breaker.succeeded()
            raise
        self._breaker = self._breaker.succeeded()
        return answer
