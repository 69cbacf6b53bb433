"""Ports for services of tests that must know their port before they listen, or listen on it again after a kill."""

from __future__ import annotations

import random
import socket

_FROM, _TO = 12_000, 32_000
"""Below those that systems hand out by themselves: until a service listens, no outgoing connection may get its port."""


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    while True:
        port = random.randrange(_FROM, _TO)  # noqa: S311  chance, no secret
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
