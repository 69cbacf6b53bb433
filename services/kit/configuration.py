"""What both services ask of their settings: a closed list of names, secrets from files, where an embedded one may listen.

A secret NAME can stand in a file instead of the environment, which other processes and dumps may show: `NAME_FILE` names
the file. Its content, without the white space around it, is what NAME would be; a list may have one entry a line.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import textwrap
from pathlib import Path
from typing import Annotated, Any, Self, get_origin
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from services.kit.admission import Limits

FILE = "_FILE"
"""End of the variable that names a secret's file, as the official images of databases and dashboards have it."""


class ServiceSettings(BaseSettings):
    """Base of a service's settings: an environment variable with its prefix that names no setting is an error.

    Left to itself the environment is only searched for known names, so a misspelt one would be ignored in silence.
    """

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    database_password: SecretStr | None = None
    """Of the user in `database_url`, so that one file can hold the password alone."""

    @model_validator(mode="before")
    @classmethod
    def _no_strangers(cls, data: Any) -> Any:
        prefix = cls.model_config.get("env_prefix", "").upper()
        files = {prefix + name.upper() + FILE: name for name, field in cls.model_fields.items() if _is_secret(field)}
        known = {prefix + name.upper() for name in cls.model_fields}.union(files)
        given = {name.upper(): name for name in sorted(os.environ) if name.upper().startswith(prefix)}
        for name, spelt in given.items():
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                raise ValueError(f"{spelt} is no setting" + (f"; did you mean {close[0]}?" if close else ""))
        for name in given.keys() & files.keys():
            if name.removesuffix(FILE) in given:
                raise ValueError(f"{name.removesuffix(FILE)} and {name} are both set; keep one of them")
        return {**{files[name]: _from_file(cls, files[name], given[name]) for name in given if name in files}, **data}

    def with_password(self, url: str) -> str:
        """Return a database URL with `database_password` in it, where there is one.

        Raises:
            ValueError: the URL has a password of its own, or no user to give it to.
        """
        if self.database_password is None:
            return url
        parts = urlsplit(url)
        if parts.password is not None or not parts.username:
            raise ValueError("database_password needs a database_url with a user and without a password")
        user, place = parts.netloc.rsplit("@", 1)
        password = quote(self.database_password.get_secret_value(), safe="")
        return urlunsplit(parts._replace(netloc=f"{user}:{password}@{place}"))


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

    access_log: bool | None = None
    """One line of the log per request, with its id, team and what it booked; unset, in production mode alone."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.team_concurrency > self.concurrency:
            raise ValueError("team_concurrency is a part of concurrency, so it cannot be more")
        return self

    @property
    def logs_requests(self) -> bool:
        """Whether each request has a line in the log."""
        return getattr(self, "mode", "") == "production" if self.access_log is None else self.access_log

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
        if _is_secret(field):
            lines[-1] += f"  or a file: {prefix}{name.upper()}{FILE}"
        if field.description:
            lines += textwrap.wrap(
                " ".join(field.description.split()), 100, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
    return "\n".join(lines)


def _is_secret(field: FieldInfo) -> bool:
    """Whether a setting is a secret, or a list or table of some."""
    return SecretStr.__name__ in str(field.annotation)


def _from_file(settings: type[ServiceSettings], field: str, variable: str) -> Any:
    """Return what the file named by `variable` says of `field`.

    Raises:
        ValueError: it cannot be read, or says nothing.
    """
    path = os.environ[variable]
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text file"
        raise ValueError(
            f"{variable} names {path!r}: {reason}; write the secret there, readable by this user"
        ) from None
    if not text:
        raise ValueError(f"{variable} names {path!r}, which is empty; write the secret there")
    kind = get_origin(settings.model_fields[field].annotation)
    if kind is list and not text.startswith("["):
        return text.split()
    if kind not in {list, dict}:
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError(f"{variable} names {path!r}, which is no JSON; lists and tables are written as JSON") from None


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
