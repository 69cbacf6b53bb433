"""Lists that come in pages, as one: all of it, or so many rows."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from rollout_budget.cli.parsing import Options, positive
from rollout_budget.wire.access import MAX_PAGE


class Page(Protocol):
    """An answer that says where the next one begins."""

    @property
    def next(self) -> object:
        """What to send as `after`; None on the last."""


P = TypeVar("P", bound=Page)
A = TypeVar("A")


def add_limit(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the option that bounds a list."""
    parser.add_argument("--limit", type=positive, metavar="N", help=f"at most N {what} (default: all)")


def pages(
    options: Options, ask: Callable[[A | None, int], P], size: Callable[[P], int], after: A | None
) -> Iterator[P]:
    """Ask for page after page until the last, or until `--limit` rows are there."""
    left: int | None = options.limit
    while left is None or left > 0:
        answer = ask(after, MAX_PAGE if left is None else min(MAX_PAGE, left))
        yield answer
        after = answer.next  # type: ignore[assignment]  # what one answer says is what the next question takes
        if after is None:
            return
        left = None if left is None else left - size(answer)
