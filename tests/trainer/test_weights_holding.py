"""A server that stands still, or closes a connection, while its weights change: how often and how long it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from trainer.rollouts.vllm import ServerUnusable, VllmServer
from trainer.weights import holding
from trainer.weights.holding import end_unfinished, held, insist

SMALL_S = 0.2


class Stubborn(httpx.AsyncBaseTransport):
    """Answers until it stands still at a path, and closes connections at another once."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.still_at = ""
        self.closes_at = ""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append(path)
        if path == self.still_at:
            self.still_at = "/resume"  # from now on, whatever is asked
            await asyncio.sleep(3600.0)
        if path == self.closes_at:
            self.closes_at = ""
            raise httpx.RemoteProtocolError("closed")
        return httpx.Response(200)


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> Stubborn:
    monkeypatch.setattr(holding, "SMALL_S", SMALL_S)
    return Stubborn()


@pytest_asyncio.fixture
async def server(transport: Stubborn) -> AsyncIterator[VllmServer]:
    made = VllmServer("http://vllm.test", transport=transport)
    yield made
    await made.close()


async def test_a_closed_connection_is_asked_again(server: VllmServer, transport: Stubborn) -> None:
    transport.closes_at = "/resume"
    await insist(server, "/resume")
    assert transport.asked == ["/resume", "/resume"]


@pytest.mark.parametrize("still_at", ["/abort_requests", "/resume"])
async def test_g23_a_server_that_stands_still_is_given_up_once(
    server: VllmServer, transport: Stubborn, still_at: str
) -> None:
    """One wait for each thing that is left to ask, not three: others wait for this server's update to end."""
    transport.still_at = still_at
    with pytest.raises(ServerUnusable, match="/resume had no answer within"):
        async with asyncio.timeout(20 * SMALL_S), held(server, drain=False):
            raise ServerUnusable("the update failed")
    assert transport.asked == ["/pause", "/abort_requests", "/resume"]


async def test_g23_an_update_of_nothing_is_not_waited_for_where_nothing_moves(
    server: VllmServer, transport: Stubborn
) -> None:
    """A server that answers with an error has ended its update; one that does not answer is no use."""
    await end_unfinished(server)
    transport.still_at = "/update_weights"
    with pytest.raises(ServerUnusable, match="/update_weights had no answer within"):
        async with asyncio.timeout(20 * SMALL_S):
            await end_unfinished(server)
