"""Bearer tokens: minted here, stored as keyed hashes, written to key files that only their owner can read."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

PREFIX = "rb_"
"""Marks our tokens, so that secret scanners and people recognise one."""
TOKEN_BYTES = 32


def mint() -> str:
    """Return a new random token."""
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def digest(token: str, pepper: str) -> str:
    """Return the keyed hash (HMAC-SHA256, hex) under which a token is stored."""
    return hmac.new(pepper.encode(), token.encode(), hashlib.sha256).hexdigest()


def ensure_file(path: Path) -> str:
    """Return the token in `path`, minting and writing one (mode 0600) if the file is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    token = mint()
    with os.fdopen(handle, "w") as file:
        file.write(token + "\n")
    return token
