"""How a client lets time pass between two attempts: a blocking one blocks, an asynchronous one lets others run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, overload

import httpx


@overload
def pause_of(client: httpx.AsyncClient) -> Callable[[float], Awaitable[None]]: ...
@overload
def pause_of(client: httpx.Client) -> Callable[[float], None]: ...
def pause_of(client: httpx.AsyncClient | httpx.Client) -> Callable[[float], Any]:
    """Return what waits some seconds in the manner of `client`."""
    return asyncio.sleep if isinstance(client, httpx.AsyncClient) else time.sleep
