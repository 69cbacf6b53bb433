"""Gathering questions into few calls loses none, mixes none and keeps its bounds."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.batching import Coalescer


async def echo(items: list[int]) -> list[int]:
    await asyncio.sleep(0)
    return items


async def test_a_question_right_after_an_answer_is_not_forgotten() -> None:
    coalescer = Coalescer(echo, most=4)

    async def ask_often(place: int) -> None:
        for _ in range(20):
            assert await coalescer.ask(place) == place

    await asyncio.gather(*(ask_often(place) for place in range(5)))


async def test_too_few_answers_are_an_error_of_everybody() -> None:
    async def forget(items: list[int]) -> list[int]:
        return items[1:]

    coalescer = Coalescer(forget, most=4)
    answers = await asyncio.gather(coalescer.ask(1), coalescer.ask(2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [RuntimeError] * 2


async def test_who_stopped_waiting_is_left_out() -> None:
    sent: list[tuple[int, ...]] = []
    first = asyncio.Event()

    async def record(items: list[int]) -> list[int]:
        sent.append(tuple(items))
        await first.wait()
        return items

    coalescer = Coalescer(record, most=4)
    asked = [asyncio.ensure_future(coalescer.ask(0))]
    await asyncio.sleep(0)
    asked += [asyncio.ensure_future(coalescer.ask(place)) for place in (1, 2)]
    await asyncio.sleep(0)
    asked[1].cancel()
    await asyncio.sleep(0)
    first.set()
    assert [await asked[0], await asked[2]] == [0, 2]
    assert sent == [(0,), (2,)]


async def test_closing_cancels_who_waits() -> None:
    async def hang(items: list[int]) -> list[int]:
        await asyncio.sleep(math.inf)
        return items

    coalescer = Coalescer(hang, most=1)
    asked = [asyncio.ensure_future(coalescer.ask(place)) for place in range(3)]
    await asyncio.sleep(0)
    await coalescer.close()
    for future in asked:
        with pytest.raises(asyncio.CancelledError):
            await future


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=40),
    st.integers(1, 7),
    st.integers(1, 4),
)
async def test_coalesced_answers_reach_who_asked(items: list[tuple[int, int]], most: int, calls: int) -> None:
    """Whatever the order and the failures: each gets its own answer or error, calls stay within their bounds."""
    under_way = 0

    async def send(batch: list[tuple[int, int, int]]) -> list[str | Exception]:
        nonlocal under_way
        under_way += 1
        assert under_way <= calls
        assert len(batch) <= most
        assert len({key for _, key, _ in batch}) == 1
        await asyncio.sleep(0)
        under_way -= 1
        if any(kind == 3 for _, _, kind in batch):
            raise OSError("all of this call")
        return [ValueError(place) if kind == 2 else f"{place}" for place, _, kind in batch]

    coalescer = Coalescer[tuple[int, int, int], str](send, most=most, calls=calls, key=lambda item: item[1])
    asked = [coalescer.ask((place, key, kind)) for place, (key, kind) in enumerate(items)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for place, ((_, kind), answer) in enumerate(zip(items, answers, strict=True)):
        if isinstance(answer, str):
            assert (kind < 2, answer) == (True, str(place))
        else:
            assert isinstance(answer, OSError) or (kind == 2 and answer.args == (place,))
    await coalescer.close()
