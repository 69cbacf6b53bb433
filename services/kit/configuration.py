"""What both services ask of their settings: a closed list of names, where an embedded one may listen, faults in one line."""

from __future__ import annotations

import difflib
import ipaddress
import os
import textwrap
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from services.kit.admission import Limits


class ServiceSettings(BaseSettings):
    """Base of a service's settings: an environment variable with its prefix that names no setting is an error.

    Left to itself the environment is only searched for known names, so a misspelt one would be ignored in silence.
    """

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

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


class AdmittingSettings(ServiceSettings):
    """Settings of a service with an edge (`admission` has the rules). All are of one process: N replicas let in N times."""

    requests_per_s: Annotated[float, Field(gt=0)] = 1_000.0
    """Of one team, in the long run: more than one process answers, so that no trainer meets it by accident."""

    request_burst: Annotated[float, Field(ge=1)] = 2_000.0
    """Requests that a team may send at once after a pause."""

    bytes_per_s: Annotated[float, Field(gt=0)] = 64.0 * 2**20
    """Of request bodies of one team, in the long run: a hundred full steps of 4,096 groups."""

    byte_burst: Annotated[float, Field(ge=1)] = 256.0 * 2**20
    """Bytes that a team may send at once after a pause: four bodies of the largest size."""

    concurrency: Annotated[int, Field(ge=1, le=4096)] = 4
    """Units of work at once: a request is one, and one more for every 64 KiB of its body. One core and one writer serve
    them all: more at once are no faster together, and each is slower (docs/allocator.md, "Under load")."""

    team_concurrency: Annotated[int, Field(ge=1, le=4096)] = 2
    """Units of one team at once, so that one computes while one waits for the database; the rest is for others."""

    max_queue: Annotated[int, Field(ge=0, le=65_536)] = 256
    """Requests that may wait their turn; beyond it, the last in line is answered 503."""

    queue_wait_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Longest wait for a turn, then 503: a client with a deadline of 10 s still has time to try again."""

    unknown_keys_per_s: Annotated[float, Field(gt=0)] = 20.0
    """Requests, of everybody together, whose key this process has not seen yet; ten seconds' worth at once."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.team_concurrency > self.concurrency:
            raise ValueError("team_concurrency is a part of concurrency, so it cannot be more")
        return self

    @property
    def admission(self) -> Limits:
        """Bounds of the edge."""
        return Limits(
            requests_per_s=self.requests_per_s,
            request_burst=self.request_burst,
            bytes_per_s=self.bytes_per_s,
            byte_burst=self.byte_burst,
            units=self.concurrency,
            team_units=self.team_concurrency,
            queue=self.max_queue,
            wait_s=self.queue_wait_s,
            strangers_per_s=self.unknown_keys_per_s,
        )


def listed(settings: type[ServiceSettings]) -> str:
    """Return each setting's variable, its default and what it means, for `--help`."""
    prefix = settings.model_config["env_prefix"]
    lines = []
    for name, field in settings.model_fields.items():
        lines.append(f"  {prefix}{name.upper()}  (default: {field.get_default(call_default_factory=True)})")
        if field.description:
            lines += textwrap.wrap(
                " ".join(field.description.split()), 100, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
    return "\n".join(lines)


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
