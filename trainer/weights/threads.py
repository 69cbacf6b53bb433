"""Blocking work beside an event loop, in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress


def in_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    """Start work in a thread of its own and return the future of its end.

    Unlike an executor's, the thread does not keep the process alive: a collective whose peer is gone may never return.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    ended.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody has to ask for its error

    def settle(error: BaseException | None) -> None:
        if ended.done():
            return
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except Exception as failure:  # noqa: BLE001 - whatever it is, it belongs to who waits
            error = failure
        with suppress(RuntimeError):  # the loop has been closed: nobody waits
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, name="weights", daemon=True).start()
    return ended
