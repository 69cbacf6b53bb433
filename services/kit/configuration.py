"""What both services ask of their settings: a closed list of names, where an embedded one may listen, faults in one line."""

from __future__ import annotations

import difflib
import ipaddress
import os
from typing import Any

from pydantic import ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsError


class ServiceSettings(BaseSettings):
    """Base of a service's settings: an environment variable with its prefix that names no setting is an error.

    Left to itself the environment is only searched for known names, so a misspelt one would be ignored in silence.
    """

    @model_validator(mode="before")
    @classmethod
    def _no_strangers(cls, data: Any) -> Any:
        prefix = cls.model_config.get("env_prefix", "").upper()
        known = {prefix + name.upper() for name in cls.model_fields}
        for name in sorted(os.environ):
            if name.upper().startswith(prefix) and name.upper() not in known:
                close = difflib.get_close_matches(name.upper(), known, n=1)
                raise ValueError(f"{name} is no setting" + (f"; did you mean {close[0]}?" if close else ""))
        return data


def listed(settings: type[ServiceSettings]) -> str:
    """Return one line per setting, its variable and its default, for `--help`."""
    prefix = settings.model_config["env_prefix"]
    return "\n".join(
        f"  {prefix}{name.upper()}  (default: {field.get_default(call_default_factory=True)})"
        for name, field in settings.model_fields.items()
    )


def is_loopback(host: str) -> bool:
    """Whether `host` is an address of this machine alone; of names only `localhost` is trusted to be one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def faults(error: ValidationError | SettingsError) -> str:
    """Return what is wrong with settings, in one line and without any value: values are secrets as often as not."""
    if isinstance(error, SettingsError):
        return f"{error}: lists and objects are written as JSON"
    return "; ".join(
        f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}".lstrip(": ")
        for one in error.errors()
    )
