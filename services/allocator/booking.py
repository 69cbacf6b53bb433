"""What a request booked, as its line in the log says it: the way from a request's id to the ledger's entries and back.

Entries carry no request id: it would make every row of the largest table a tenth longer for something that is asked
once in a while. They need none. Whoever books for a team holds the lock of the team's row, and all entries of one
transaction bear the moment at which it was had (`entries.at_s`). The line names the team and that moment, so that one
`SELECT` finds exactly these entries, and the moment of any entry finds the line. Groups are not named: a line stays
short whatever the batch, and callers are known to make ids of prompts.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from services.allocator.database.ledger import SqlLedger


def booked(ledger: SqlLedger) -> dict[str, Any]:
    """Return the fields of a committed transaction; none where it booked nothing.

    `run` is the request's own: leases of others that ran out are given back before it is granted. `booked` counts
    rollouts by kind of entry, `booked_at` are the entries' `at_s` (seconds since 1970, of the database's clock).
    """
    if not ledger.record:
        return {}
    rollouts: Counter[str] = Counter()
    for entry in ledger.record:
        rollouts[entry.kind] += entry.rollouts
    return {
        "run": ledger.record[-1].account.run,
        "booked": dict(rollouts),
        "entries": len(ledger.record),
        "booked_at": ledger.booked_at,
    }
