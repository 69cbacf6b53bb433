"""Which service, and with which key. A key comes from the environment or a file, never from an argument, which `ps` shows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from rollout_budget.cli.parsing import Options, Usage
from rollout_budget.client import SyncAdminClient, SyncAllocatorClient
from rollout_budget.errors import InvalidInput

C = TypeVar("C", SyncAdminClient, SyncAllocatorClient)

URL = "ROLLOUT_BUDGET_URL"
ADMIN_KEY = "ROLLOUT_BUDGET_ADMIN_KEY"
TEAM_KEY = "ROLLOUT_BUDGET_KEY"
DEFAULT_URL = "http://127.0.0.1:8100"
"""Where an embedded allocator listens."""


def address(options: Options) -> str:
    """Return where the service is."""
    return str(options.url or os.environ.get(URL) or DEFAULT_URL)


def admin(options: Options) -> SyncAdminClient:
    """Return a client with an admin key.

    Raises:
        Usage: there is no key, or nothing can be at this address.
    """
    return _checked(SyncAdminClient, options)


def team(options: Options) -> SyncAllocatorClient:
    """Return a client with a team's key; raises as `admin` does."""
    return _checked(SyncAllocatorClient, options)


def _checked(kind: type[C], options: Options) -> C:
    key = _key(options)
    source = options.key_file or options.key_variable
    try:
        return kind(address(options), key)
    except InvalidInput as error:
        message = str(error).replace("api_key", f"the key in {source}").replace("base_url", "--url")
        raise Usage(message) from None


def _key(options: Options) -> str:
    variable: str = options.key_variable
    if options.key_file is None:
        if key := os.environ.get(variable):
            return key
        raise Usage(f"no key: set {variable}, or name the file that holds it with --key-file")
    try:
        return Path(options.key_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Usage(f"--key-file {options.key_file}: {getattr(error, 'strerror', None) or 'no text file'}") from None
