"""What the tests of the page put on it, through the API as any trainer does, and how they sign in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.allocator.running import Running

SECRET_PROMPT = "what-nobody-shall-read-on-a-page"
Headers = dict[str, str]


def token(headers: Headers) -> str:
    """The key in the headers of a Bearer."""
    return headers["Authorization"].removeprefix("Bearer ")


def group(name: str, **more: Any) -> dict[str, Any]:
    """The body of an `open` of one group."""
    return {"groups": [{"group_id": name, "prompt_key": f"key-{name}", "prompt": SECRET_PROMPT, **more}]}


def steps(run: str, groups: list[str], **spec: Any) -> list[tuple[str, dict[str, Any]]]:
    """The requests of a run whose groups are opened, observed and closed: two rollouts of each, as no third is worth 1."""
    at = f"/v1/runs/{run}/groups"
    sent: list[tuple[str, dict[str, Any]]] = [
        ("/v1/runs", {"run_id": run, "policy": "adder", "k_init": 2, "price": 1.0, **spec})
    ]
    for name in groups:
        sent += [
            (f"{at}/open", group(name)),
            (f"{at}/observe", {"groups": [{"group_id": name, "outcomes": [0.0, 1.0]}]}),
            (f"{at}/close", {"groups": [{"group_id": name, "used": 2, "tokens": 80, "seconds": 0.5}]}),
        ]
    return sent


async def draw(allocator: Running, headers: Headers, run: str, groups: list[str], **spec: Any) -> None:
    """Carry out `steps`."""
    for path, body in steps(run, groups, **spec):
        answer = await allocator.http.post(path, json=body, headers=headers)
        assert answer.is_success, answer.text


@asynccontextmanager
async def signed_in(allocator: Running, headers: Headers) -> AsyncIterator[httpx.AsyncClient]:
    """A browser's client, with the session of this key."""
    transport = httpx.ASGITransport(app=allocator.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(base_url="http://allocator", transport=transport) as client:
        answer = await client.post("/dashboard/login", data={"key": token(headers)})
        assert answer.status_code == 303, answer.text
        yield client
