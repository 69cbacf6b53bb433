"""Bearer tokens: minted here, stored as keyed hashes, written to key files that only their owner can read."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

PREFIX = "rb_"
"""Marks our tokens, so that secret scanners and people recognise one."""
TOKEN_BYTES = 32
MIN_CHARS = 16
"""Shortest secret that a file may hold: less is an accident, not a key."""


def mint() -> str:
    """Return a new random token."""
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def digest(token: str, pepper: str) -> str:
    """Return the keyed hash (HMAC-SHA256, hex) under which a token is stored."""
    return hmac.new(pepper.encode(), token.encode(), hashlib.sha256).hexdigest()


def ensure_file(path: Path) -> str:
    """Return the token in `path`, minting one (mode 0600) if the file is not there. The file appears whole or not at all.

    Raises:
        ValueError: the file is too short to be a token. An empty one would let in whoever shows no key.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _write_once(path, mint())
    token = path.read_text().strip()
    if len(token) < MIN_CHARS:
        raise ValueError(f"{path} holds no token of at least {MIN_CHARS} characters; without it a new one is made")
    return token


def _write_once(path: Path, token: str) -> None:
    """Write a file unless another process was first: it is linked to its name once it is whole."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
