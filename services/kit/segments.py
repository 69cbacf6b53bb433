"""Ids in paths: one percent-encoded segment each, `/` included.

Servers hand applications a path that is decoded already, in which `a%2Fb` and `a/b` are the same. Routes here are matched
against the path as it was sent, and an id is decoded after it was cut out: `{run_id:segment}` is one segment of any
characters, `{reservation_id:rest}` all that are left.
"""

from __future__ import annotations

from urllib.parse import unquote

from fastapi import FastAPI
from starlette.convertors import Convertor, register_url_convertor
from starlette.types import ASGIApp, Receive, Scope, Send


class Segment(Convertor[str]):
    """One segment, decoded."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        """Return the id."""
        return unquote(value)

    def to_string(self, value: str) -> str:
        """Return a path for a template, which no service here asks for."""
        raise NotImplementedError


class Rest(Segment):
    """All segments that are left, decoded as one."""

    regex = ".+"


class RawPath:
    """ASGI middleware that routes by the path as it was sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its undecoded path."""
        if scope["type"] == "http" and scope.get("raw_path"):
            scope = {**scope, "path": scope["raw_path"].decode("ascii", "replace").partition("?")[0]}
        await self._app(scope, receive, send)


def install(app: FastAPI) -> None:
    """Route this application's requests by their undecoded paths."""
    app.add_middleware(RawPath)


register_url_convertor("segment", Segment())
register_url_convertor("rest", Rest())
