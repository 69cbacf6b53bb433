"""G17 and G16 with a real process: overload sheds and recovers, and the generator tells the truth about time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.load import Result, Shot, fire, poisson, steady, summary
from tests.load.report import good_per_s, quantile
from tests.load.scenarios import allocator, capacity, large_decision, overload

FLOOD_S, CALM_S = 5.0, 10.0
"""Short and generous: the figures are in docs/allocator.md, from a minute of `python -m tests.load overload`."""


@pytest.mark.services
@pytest.mark.alone
async def test_g17_three_times_the_peak_is_shed_and_forgotten(tmp_path: Path) -> None:
    """Goodput stays, what is shed is told so with a time, nothing is left without an answer, and calm returns."""
    async with allocator(tmp_path, ("quiet", "loud")) as target:
        peak = await capacity(target, 2.0)
        results = await overload(target, peak, FLOOD_S, CALM_S)
    flood = [result for result in results if result.at_s < FLOOD_S]
    assert {result.status for result in flood} == {200, 503}
    assert all(result.retry_after_s == 1 for result in flood if result.status == 503)
    assert good_per_s(results, 1.0, FLOOD_S) > 0.4 * peak
    last = [result.status for result in results if result.at_s > FLOOD_S + CALM_S - 2.0]
    assert last.count(200) > 0.9 * len(last)


@pytest.mark.services
@pytest.mark.alone
async def test_g17_the_loop_answers_beside_large_decisions(tmp_path: Path) -> None:
    """While two large decisions are made and wait, the process is alive all the time."""
    async with allocator(tmp_path, ("loud",)) as target:
        body = large_decision(4_096, 8)
        large = [Shot(0.0, "large", "POST", "/v1/decide", body, target.headers("loud"))] * 4
        results = await target.fire([*large, *(Shot(at, "alive", "GET", "/livez") for at in steady(20.0, 2.0))])
    assert {result.status for result in results} == {200}


@asynccontextmanager
async def server(answer: Callable[[], Awaitable[bytes]]) -> AsyncIterator[int]:
    """Serve what `answer` returns after every request, and end the connection after nothing; yield the port."""
    handlers: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            content = await answer()
            writer.write(content)
            if not content:
                break
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield listening.sockets[0].getsockname()[1]
    listening.close()
    await asyncio.gather(*(handler for handler in handlers if handler is not None))


async def test_latency_counts_from_the_schedule() -> None:
    """A server that stalls once delays all that were due meanwhile: a closed loop would see one slow answer."""
    go = asyncio.Event()

    async def answer() -> bytes:
        await go.wait()
        return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"

    asyncio.get_running_loop().call_later(0.5, go.set)
    async with server(answer) as port:
        results = await fire("127.0.0.1", port, [Shot(at, "a", "GET", "/") for at in steady(100.0, 0.4)])
    assert {result.status for result in results} == {200}
    waits = [result.latency_s for result in results]
    assert waits[0] > waits[-1] > 0.0
    assert quantile(waits, 0.5) > 0.1


async def test_no_answer_is_counted_as_none() -> None:
    """A connection that is cut off ends no load."""

    async def answer() -> bytes:
        return b""

    async with server(answer) as port:
        results = await fire("127.0.0.1", port, [Shot(0.0, "a", "GET", "/")] * 2)
    assert [result.status for result in results] == [0, 0]


def test_figures_are_order_statistics() -> None:
    """Of good answers alone; refusals are counted apart."""
    good = [Result("a", float(place), place + 0.001 * (place + 1), 200) for place in range(100)]
    shed = [Result("a", 0.0, 9.0, 503), Result("b", 0.0, 1.0, 0)]
    found = summary([*good, *shed], 50.0)
    assert found["a"].p50_s == pytest.approx(0.050)
    assert found["a"].p99_s == pytest.approx(0.099)
    assert (found["a"].good_per_s, found["a"].turned_p99_s, found["b"].statuses) == (2.0, 9.0, {0: 1})


def test_schedules_have_their_rate() -> None:
    """To within five standard deviations, and never outside their time."""
    moments = poisson(50.0, 200.0, seed=3)
    assert abs(len(moments) - 10_000) < 500
    assert 0.0 < moments[0] <= moments[-1] < 200.0
    assert moments == sorted(moments)
    assert steady(4.0, 1.0) == [0.0, 0.25, 0.5, 0.75]
