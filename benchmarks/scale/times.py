"""What one call costs, as measured on a real service: a table by call and number of groups, and interpolation in it.

Owns the form of `measured.json`, which `python -m benchmarks.scale --measure` writes anew. Seconds throughout. A call is
cut where the simulation needs it: the service's CPU before it holds the team's row, while it holds it, and after the
commit; the database's CPU before and while; the commit itself; and how many statements were sent before and while,
since each waits for the network once.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

MEASURED = Path(__file__).with_name("measured.json")
CALLS = ("open", "observe", "last", "close")
"""`observe` is a report after which groups draw more, `last` one after which they all stop."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one call with some number of groups; CPU and commit in seconds, statements as a count."""

    cpu_before: float
    cpu_held: float
    cpu_after: float
    db_before: float
    db_held: float
    commit: float
    statements_before: float
    statements_held: float

    @property
    def cpu(self) -> float:
        """CPU seconds of the service."""
        return self.cpu_before + self.cpu_held + self.cpu_after

    @property
    def db(self) -> float:
        """CPU seconds of the database."""
        return self.db_before + self.db_held

    def held(self, round_trip_s: float) -> float:
        """Return the seconds for which the team's row is held when nobody else wants anything."""
        return self.cpu_held + self.db_held + self.commit + round_trip_s * (self.statements_held + 1)


@dataclass(frozen=True)
class Times:
    """The table: `calls[call][groups]`; linear between its sizes and, at the last slope, beyond them."""

    machine: str
    date: str
    calls: dict[str, dict[int, Cost]]

    def cost(self, call: str, groups: int) -> Cost:
        """Return what a call with `groups >= 1` costs."""
        return _between(self, call, groups)

    def slowed(self, service: float, database: float) -> Times:
        """Return the table of a machine where CPU seconds of the service and the database take so many times as long."""
        factors = {"cpu_before": service, "cpu_held": service, "cpu_after": service}
        factors |= {"db_before": database, "db_held": database}
        calls = {
            call: {
                size: replace(cost, **{name: factor * getattr(cost, name) for name, factor in factors.items()})
                for size, cost in sizes.items()
            }
            for call, sizes in self.calls.items()
        }
        return replace(self, calls=calls)

    def __hash__(self) -> int:
        return id(self)

    def save(self, path: Path) -> None:
        """Write the table."""
        calls = {call: {str(size): asdict(cost) for size, cost in sizes.items()} for call, sizes in self.calls.items()}
        text = json.dumps({"machine": self.machine, "date": self.date, "calls": calls}, indent=1)
        path.write_text(text + "\n")


def load(path: Path = MEASURED) -> Times:
    """Read a table.

    Raises:
        ValueError: the file is not such a table.
    """
    try:
        found = json.loads(path.read_text())
        calls = {
            call: {int(size): Cost(**cost) for size, cost in sorted(found["calls"][call].items(), key=_size)}
            for call in CALLS
        }
        return Times(found["machine"], found["date"], calls)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a table of service times (make one with --measure): {error}") from None


def _size(item: tuple[str, object]) -> int:
    return int(item[0])


@lru_cache(maxsize=100_000)
def _between(times: Times, call: str, groups: int) -> Cost:
    table = times.calls[call]
    sizes = list(table)
    place = min(max(bisect_left(sizes, groups), 1), len(sizes) - 1)
    low, high = sizes[place - 1], sizes[place]
    share = (groups - low) / (high - low)
    names = [field.name for field in fields(Cost)]
    low_cost, high_cost = table[low], table[high]
    return Cost(
        **{name: max(0.0, (1.0 - share) * getattr(low_cost, name) + share * getattr(high_cost, name)) for name in names}
    )
