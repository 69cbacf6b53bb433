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


def misuse(error: InvalidInput, options: Options) -> Usage:
    """Return what a client found wrong with address or key, in the words of the command."""
    source = options.key_file or options.key_variable
    return Usage(str(error).replace("api_key", f"the key in {source}").replace("base_url", "--url"))


def _checked(kind: type[C], options: Options) -> C:
    try:
        return kind(address(options), key(options))
    except InvalidInput as error:
        raise misuse(error, options) from None


def key(options: Options) -> str:
    """Return the key from the file that was named, or else from the environment.

    Raises:
        Usage: there is none.
    """
    variable: str = options.key_variable
    if options.key_file is None:
        if found := os.environ.get(variable):
            return found
        raise Usage(f"no key: set {variable}, or name the file that holds it with --key-file")
    try:
        return Path(options.key_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Usage(f"--key-file {options.key_file}: {getattr(error, 'strerror', None) or 'no text file'}") from None
