"""Generate the synchronous clients from the asynchronous ones: `python scripts/unasync.py [--check]`.

Works on tokens: `async` and `await` go, the names of `RENAMED` change, everything else stays as it is written. With
`--check` nothing is written; a twin that differs from its source ends the script with status 1.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tokenize
from pathlib import Path

CLIENT = Path(__file__).resolve().parents[1] / "rollout_budget" / "client"
TWINS = {CLIENT / name: CLIENT / "sync" / name for name in ("_http.py", "allocator.py", "admin.py", "prior.py")}

RENAMED = {
    "AsyncBaseTransport": "BaseTransport",
    "AsyncClient": "Client",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclose": "close",
    "AllocatorClient": "SyncAllocatorClient",
    "AdminClient": "SyncAdminClient",
    "PriorClient": "SyncPriorClient",
    "Client": "SyncClient",
    "Http": "SyncHttp",
}
IN_TEXT = {
    "The synchronous twin of this file is": "This synchronous twin of `client/{name}` is",
    "Obeys `client.base.Allocator`.": "The blocking form of `client.base.Allocator`.",
    "async with": "with",
    "await ": "",
}
"""Phrases of docstrings."""
TWIN_MODULES = re.compile(r"rollout_budget\.client\.(_http|allocator|admin|prior)\b")
HTTPX_NAME = re.compile(r"httpx\.$")


def unasync(source: str, name: str) -> str:
    """Return the synchronous twin of a module."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    pieces: list[str] = []
    position = 0
    dropping = False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        start, end = (starts[row - 1] + column for row, column in (token.start, token.end))
        if not dropping:
            pieces.append(source[position:start])
        dropping = token.type == tokenize.NAME and token.string in {"async", "await"}
        if not dropping:
            pieces.append(_translated(token, before=source[:start], name=name))
        position = end
    return TWIN_MODULES.sub(r"rollout_budget.client.sync.\1", "".join(pieces))


def _translated(token: tokenize.TokenInfo, *, before: str, name: str) -> str:
    text = token.string
    if token.type == tokenize.STRING:
        for phrase, twin in IN_TEXT.items():
            text = text.replace(phrase, twin.format(name=name))
        return re.sub(r"\b(AllocatorClient|PriorClient|AdminClient)\b", r"Sync\1", text)
    if token.type == tokenize.NAME and not (text == "Client" and HTTPX_NAME.search(before)):
        return RENAMED.get(text, text)
    return text


def main(arguments: list[str] | None = None) -> int:
    """Write or check every twin; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a twin differs")
    check = parser.parse_args(arguments).check
    stale = []
    for source, twin in TWINS.items():
        text = unasync(source.read_text(encoding="utf-8"), source.name)
        if twin.exists() and twin.read_text(encoding="utf-8") == text:
            continue
        stale.append(twin)
        if not check:
            twin.write_text(text, encoding="utf-8")
    for twin in stale:
        sys.stderr.write(f"{twin.relative_to(CLIENT.parents[1])} {'differs from its source' if check else 'written'}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
