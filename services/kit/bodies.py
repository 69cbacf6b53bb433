"""Bounds request bodies: one byte too many is 413 problem+json, whether its length was declared or not (G16).

A declared length is refused before anything is read; an undeclared one as soon as the bound is passed.
"""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.kit import problems


class BodyBound:
    """ASGI middleware that lets through bodies of at most `most` bytes."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting what is read of its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        detail = f"a body of this service is at most {self._most} bytes long"
        if declared.isdecimal() and int(declared) > self._most:
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            await problems.response(status, detail, code="too-large")(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
            return message

        await self._app(scope, counted, send)


def install(app: FastAPI, *, max_body_bytes: int) -> None:
    """Bound the bodies of all routes."""
    app.add_middleware(BodyBound, most=max_body_bytes)
