"""A gate before a server: closed, no call starts; empty, none is under way. Weights change only behind a closed, empty one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Open at first. Whoever comes while it is closed waits; whoever is inside stays until done."""

    def __init__(self) -> None:
        self._is_open = asyncio.Event()
        self._is_empty = asyncio.Event()
        self._is_open.set()
        self._is_empty.set()
        self._inside = 0

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Enter once the gate is open."""
        await self._is_open.wait()
        self._inside += 1
        self._is_empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if self._inside == 0:
                self._is_empty.set()

    def close(self) -> None:
        """Let nobody in from now on."""
        self._is_open.clear()

    def open(self) -> None:
        """Let in who waits, and who comes."""
        self._is_open.set()

    async def is_empty(self, within_s: float) -> bool:
        """Return whether everybody had left at some moment of the next `within_s` seconds."""
        try:
            async with asyncio.timeout(within_s):
                await self._is_empty.wait()
        except TimeoutError:
            return False
        return True
