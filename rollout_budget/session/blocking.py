"""`Session`: the same without `await`, over an event loop in a thread of its own.

Owns the thread alone; everything else is `AsyncSession`'s. A loop that runs already, as in a notebook or in Ray, is
left in peace.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from rollout_budget.session.groups import Drawn, Group, Prompt
from rollout_budget.session.waiting import AsyncSession
from rollout_budget.wire import RunSpec

T = TypeVar("T")


class Session:
    """One run of one trainer, for `with`. Arguments, methods and errors are those of `AsyncSession`."""

    def __init__(self, run: str | RunSpec, **options: Any) -> None:
        self._session = AsyncSession(run, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rollout-budget", daemon=True)

    def __enter__(self) -> Self:
        """See `AsyncSession`."""
        self._thread.start()
        try:
            self._call(self._session.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `AsyncSession`."""
        try:
            self._call(self._session.__aexit__(kind, error, trace))
        finally:
            self._stop()

    @property
    def spec(self) -> RunSpec:
        """The run as it was declared."""
        return self._session.spec

    @property
    def fallback_total(self) -> int:
        """See `AsyncSession`."""
        return self._session.fallback_total

    def open(self, prompts: Sequence[Prompt | str], *, version: int, step: int | None = None) -> list[Group]:
        """See `AsyncSession`."""
        return self._call(self._session.open(prompts, version=version, step=step))

    def observe(self, groups: Sequence[Group]) -> list[Group]:
        """See `AsyncSession`."""
        return self._call(self._session.observe(groups))

    def waves(self, groups: Sequence[Group]) -> Iterator[list[Group]]:
        """See `AsyncSession`."""
        try:
            wanting = [group for group in groups if group.want]
            while wanting:
                yield wanting
                wanting = self.observe(wanting)
        finally:
            self.close(groups)

    def close(self, groups: Sequence[Group]) -> None:
        """See `AsyncSession`."""
        self._call(self._session.close(groups))

    def score(self, drawn: Sequence[Drawn], *, version: int, step: int | None = None) -> list[Group]:
        """See `AsyncSession`."""
        return self._call(self._session.score(drawn, version=version, step=step))

    def metrics(self) -> dict[str, float]:
        """See `AsyncSession`."""
        return self._session.metrics()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
