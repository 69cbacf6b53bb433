"""Few calls for many askers: whatever waits when a call can be made goes with it.

Owns the gathering and the hand-out of answers; knows nothing of what is asked. Nobody waits for a batch to fill: while
`calls` calls are on their way, further items gather, and the next free call takes them along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Coalescer(Generic[Item, Answer]):
    """Turns single questions into calls of many.

    Args:
        send: asks for many items at once; returns one answer, or one error, per item, in their order. An error that it
            raises goes to all of them.
        most: items in one call.
        calls: calls under way at the same time.
        key: only items of equal key share a call.
        cancel_unwanted: cancel a call under way once everybody whose item it carries has stopped waiting. For calls whose
            answer is worth nothing then, and that cost something until they end.
    """

    def __init__(
        self,
        send: Callable[[list[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        most: int,
        calls: int = 1,
        key: Callable[[Item], Hashable] = lambda _item: None,
        cancel_unwanted: bool = False,
    ) -> None:
        self._send = send
        self._most = most
        self._calls = calls
        self._key = key
        self._cancel_unwanted = cancel_unwanted
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._under_way = 0
        self._senders: set[asyncio.Task[None]] = set()

    async def ask(self, item: Item) -> Answer:
        """Return the answer to one item, by whichever call takes it along."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._under_way < self._calls:
            self._under_way += 1
            sender = asyncio.create_task(self._drain())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return await future

    async def close(self) -> None:
        """Cancel calls under way and whoever waits for one."""
        senders = list(self._senders)
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()

    async def _drain(self) -> None:
        """Send batches until nothing waits; no item can come between the last look and the step down."""
        try:
            while batch := self._take():
                await self._ask_together(batch)
        finally:
            self._under_way -= 1

    async def _ask_together(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        answers: Sequence[Answer | Exception]
        call = self._start(batch)
        if self._cancel_unwanted:
            _cancel_when_all_are_done(call, [future for _, future in batch])
        try:
            answers = await call
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(batch)} items were sent and {len(answers)} answers came back")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to those who asked
            answers = [error] * len(batch)
        except asyncio.CancelledError:
            if all(future.done() for _, future in batch) and not _is_being_cancelled():
                return  # the call alone: nobody waited for it any more
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), answer in zip(batch, answers, strict=True):
            _settle(future, answer)

    def _start(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> asyncio.Future[Sequence[Answer | Exception]]:
        return asyncio.ensure_future(self._send([item for item, _ in batch]))

    def _take(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        """Take the oldest waiting item and up to `most - 1` others of its key; who stopped waiting is left out."""
        self._waiting = [entry for entry in self._waiting if not entry[1].done()]
        if not self._waiting:
            return []
        key = self._key(self._waiting[0][0])
        batch = [entry for entry in self._waiting if self._key(entry[0]) == key][: self._most]
        taken = {id(future) for _, future in batch}
        self._waiting = [entry for entry in self._waiting if id(entry[1]) not in taken]
        return batch


def _cancel_when_all_are_done(call: asyncio.Future[Any], futures: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel a call with the last future that is done before it; settled futures find it done already."""

    def look(_done: asyncio.Future[Any]) -> None:
        if all(future.done() for future in futures):
            call.cancel()

    for future in futures:
        future.add_done_callback(look)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _settle(future: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
