"""What both services ask of their settings: where an embedded one may listen, and faults told without their values."""

from __future__ import annotations

import ipaddress

from pydantic import ValidationError


def is_loopback(host: str) -> bool:
    """Whether `host` is an address of this machine alone; of names only `localhost` is trusted to be one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def faults(error: ValidationError) -> str:
    """Return what is wrong with settings, in one line and without any value: values are secrets as often as not."""
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}".lstrip(": ") for one in error.errors())
