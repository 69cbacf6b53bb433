"""The running service as a parameter type of routes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from services.allocator.service import Service


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Parts = Annotated[Service, Depends(_service)]
