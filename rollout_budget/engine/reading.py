"""Usage in pages: a row is found again by what it is about, so pages stay in step while rows are added and counted up.

A cursor is the dimensions of the last row of a page, as JSON in URL-safe base64: to a caller it means nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence

from rollout_budget.errors import InvalidInput
from rollout_budget.ledger.base import Ledger, Selection
from rollout_budget.wire import Dimension, UsageAnswer, UsageQuery, UsageRow


async def usage(ledger: Ledger, team: str | None, by: Sequence[Dimension], query: UsageQuery) -> UsageAnswer:
    """Return one page of the usage of a team, or of all if it is None, with the cursor of the next one.

    Raises:
        InvalidInput: the cursor is none of ours, or of a question with other dimensions.
    """
    which = Selection(
        run=query.run,
        policy=query.policy,
        since=None if query.since is None else query.since.isoformat(),
        until=None if query.until is None else query.until.isoformat(),
        after=_place(query.after, len(by)) if query.after else (),
        limit=query.limit + 1,
    )
    found = await ledger.usage(team, by, which)
    rows = found[: query.limit]
    return UsageAnswer(rows=rows, next=_cursor(by, rows[-1]) if len(found) > query.limit else None)


def _cursor(by: Sequence[Dimension], row: UsageRow) -> str:
    place = json.dumps([getattr(row, one) for one in by])
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _place(cursor: str, width: int) -> tuple[str, ...]:
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        place = None
    if not isinstance(place, list) or len(place) != width or not all(map(_is_name, place)):
        raise InvalidInput("`after` is the `next` of the page before, of a question with the same dimensions")
    return tuple(place)


def _is_name(part: object) -> bool:
    """Whether a database can be asked for it: text, without NUL and with whole characters."""
    return isinstance(part, str) and "\0" not in part and not any("\ud800" <= one <= "\udfff" for one in part)
