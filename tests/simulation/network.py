"""Allocator replicas and the network before them: messages are lost, doubled, late, overtaken; replicas die.

A client sees what a real one sees: an answer, a refused connection, a broken one, or silence until its own timeout.
What the network has taken on it delivers later, whether or not anybody still waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import httpx

from rollout_budget.engine import Engine, HistoryPrior
from rollout_budget.engine.ports import PriorSource
from rollout_budget.errors import Unavailable
from rollout_budget.wire import (
    CloseAnswer,
    CloseRequest,
    EvidenceRow,
    ObserveAnswer,
    ObserveRequest,
    OpenAnswer,
    OpenRequest,
    PriorModel,
    Prompt,
    ValuesAnswer,
)
from tests.client.routing import problem, respond, target
from tests.simulation.account import Account
from tests.simulation.database import Database
from tests.simulation.weather import Weather

DELIVER_EVERY_S = 5.0
"""Pause of a replica between two deliveries of evidence."""


class Died(Exception):
    """The replica that had the request is gone."""


class Priors:
    """The prior service: one for all replicas, away at times."""

    def __init__(self) -> None:
        self.inner = HistoryPrior()
        self.away = False

    async def values(
        self, team: str, policy: str, version: int, prompts: Sequence[Prompt], model: PriorModel
    ) -> ValuesAnswer:
        """See `PriorSource`."""
        await self._reach()
        return await self.inner.values(team, policy, version, prompts, model)

    async def add_evidence(self, team: str, policy: str, rows: Sequence[EvidenceRow]) -> None:
        """See `PriorSource`; what is delivered twice counts once."""
        await self._reach()
        await self.inner.add_evidence(team, policy, rows)

    def trials(self) -> float:
        """Return the outcomes that have become evidence."""
        return sum(trials for tally in self.inner._policies.values() for _, trials in tally.by_version.values())

    async def _reach(self) -> None:
        await asyncio.sleep(0.001)
        if self.away:
            raise Unavailable("the prior service is away")


class Replica:
    """One allocator process: an engine on the shared database, with requests in flight that a crash cuts off."""

    def __init__(self, name: str, database: Database, priors: PriorSource) -> None:
        self.name = name
        self.engine = Engine(database, priors)
        self.up = True
        self._tasks: dict[int, asyncio.Task[Any]] = {}
        self._next = 0
        self.start()

    def start(self) -> None:
        """Come up, with nothing in memory."""
        self.up = True
        self._begin(self._deliver())

    def crash(self) -> int:
        """Stop at once, in the middle of everything; return how many requests were in flight."""
        self.up = False
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            task.cancel()
        return len(tasks) - 1

    async def serve(self, team: str, request: httpx.Request) -> httpx.Response:
        """Answer a request.

        Raises:
            Died: the replica was killed meanwhile.
        """
        task: asyncio.Task[httpx.Response] = self._begin(respond(self.engine, team, request))
        await asyncio.wait([task])
        if task.cancelled():
            raise Died
        return task.result()

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        number, self._next = self._next, self._next + 1
        task = asyncio.ensure_future(work)
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._tasks.pop(number, None))
        return task

    async def _deliver(self) -> None:
        while True:
            await asyncio.sleep(DELIVER_EVERY_S)
            try:
                await self.engine.deliver_evidence()
            except Unavailable:
                continue


class Network:
    """What lies between clients and replicas; `step` is told of every message, with what became of it."""

    def __init__(
        self, replicas: Sequence[Replica], weather: Weather, account: Account, step: Callable[[str], None]
    ) -> None:
        self.replicas = replicas
        self.step = step
        self._weather = weather
        self._account = account
        self._flying: dict[int, asyncio.Task[None]] = {}
        self._sent = 0

    def send(self, team: str, request: httpx.Request) -> asyncio.Future[httpx.Response]:
        """Take a request on; the future gets the answer, or the error of a connection, or nothing ever."""
        reply: asyncio.Future[httpx.Response] = asyncio.get_running_loop().create_future()
        if self._weather.strikes("request lost"):
            self.step(f"lost {target(request)}")
            return reply
        self._fly(self._carry(team, request, reply))
        if self._weather.strikes("duplicated"):
            self._fly(self._carry(team, request, None))
        return reply

    async def settled(self) -> None:
        """Wait until nothing is on its way any more."""
        while self._flying:
            await next(iter(self._flying.values()))

    def _fly(self, message: Coroutine[Any, Any, None]) -> None:
        number, self._sent = self._sent, self._sent + 1
        task = asyncio.ensure_future(message)
        self._flying[number] = task
        task.add_done_callback(lambda _: self._flying.pop(number, None))

    async def _carry(self, team: str, request: httpx.Request, reply: asyncio.Future[httpx.Response] | None) -> None:
        sent = self._account.now()
        await asyncio.sleep(self._weather.way_s())
        replica = self._weather.random.choice(self.replicas)
        response: httpx.Response | None = None
        failure: httpx.TransportError | None = None
        try:
            if self._weather.strikes("shed"):
                response = problem(503, "unavailable", "too busy", retryable=True)
            elif self._weather.strikes("failed"):
                response = problem(500, "internal", "a defect", retryable=False)
            elif replica.up:
                response = await replica.serve(team, request)
                self._answered(team, request, response)
            else:
                failure = httpx.ConnectError("refused", request=request)
        except Died:
            failure = httpx.ReadError("reset", request=request)
        self.step(f"{replica.name} {team} {target(request)} {response.status_code if response else failure}")
        await asyncio.sleep(self._weather.way_s())
        if reply is None or reply.done() or self._weather.strikes("answer lost"):
            return
        if self._weather.strikes("connection reset"):
            failure = httpx.ReadError("reset", request=request)
        if failure is not None:
            reply.set_exception(failure)
        elif response is not None:
            self._arrived(team, request, response, sent)
            reply.set_result(response)

    def _answered(self, team: str, request: httpx.Request, response: httpx.Response) -> None:
        """Compare an answer with every other one that was given, whether it arrives or not."""
        run, _, action = request.url.raw_path.decode().removeprefix("/v1/runs/").partition("/groups/")
        if response.status_code != httpx.codes.OK:
            return
        if action == "open":
            self._account.answered_open(team, run, OpenAnswer.model_validate_json(response.content).groups)
        elif action == "observe":
            asked = ObserveRequest.model_validate_json(request.content).groups
            answers = ObserveAnswer.model_validate_json(response.content).groups
            for body, decision in zip(asked, answers, strict=True):
                group = (team, f"{run}/{body.group_id}/{body.attempt}")
                self._account.answered_observe(group, tuple(body.outcomes), decision)
        elif action == "close":
            closing = CloseRequest.model_validate_json(request.content).groups
            for close, answer in zip(closing, CloseAnswer.model_validate_json(response.content).groups, strict=True):
                self._account.answered_close((team, f"{run}/{close.group_id}/{close.attempt}"), close.used, answer)

    def _arrived(self, team: str, request: httpx.Request, response: httpx.Response, sent: float) -> None:
        """Hold the service to what an answer that arrived has promised: leases that run from when it was asked.

        An open holds for the whole lease; a report renews it once an eighth is gone, so it leaves seven eighths at least.
        """
        run, _, action = request.url.raw_path.decode().removeprefix("/v1/runs/").partition("/groups/")
        if response.status_code != httpx.codes.OK or action not in {"open", "observe"}:
            return
        body = (OpenRequest if action == "open" else ObserveRequest).model_validate_json(request.content)
        share = 1.0 if action == "open" else 7 / 8
        for group in body.groups:
            key = (team, f"{run}/{group.group_id}/{group.attempt}")
            self._account.promise(key, sent + share * self._account.opened[key].lease_s)


class Line(httpx.AsyncBaseTransport):
    """A client's way into the network: waits for an answer as long as the client's timeout says."""

    def __init__(self, network: Network, team: str) -> None:
        self._network = network
        self._team = team

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx."""
        try:
            async with asyncio.timeout(request.extensions["timeout"]["read"]):
                return await self._network.send(self._team, request)
        except TimeoutError:
            raise httpx.ReadTimeout("no answer in time", request=request) from None
