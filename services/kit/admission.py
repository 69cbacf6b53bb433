"""Who is let in, who waits and who is turned away (G13, G17). Pure: no clock, no task, no socket; time is an argument.

A request is charged to its team, whom the edge has found by the key (`edge`). Four rules, in this order:

1. *Rate.* Each team has a bucket of requests and one of bytes. An empty one answers `Limited` with the time until it is
   not. Requests without a known key share one small bucket of their own, so wrong keys cost no team anything.
2. *Share.* A request takes one unit of work, and one more for every `UNIT_BYTES` of its body; so many units are at work
   at once in all, and fewer of one team: a team that sends much never fills the house.
3. *Turn.* The rest waits. Between teams the one that was given least is next (start-time fair queueing, weighted by
   units), so a team's first request goes before another's hundredth; within a team the order is that of arrival.
4. *Bounds.* Where too many wait, the last in line is turned away: the newest of the team that is furthest ahead, not
   whoever came last. Whoever waited too long gives up (`give_up`).

Figures are of one process: with N replicas the sum is N times as much, and nothing is shared between them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

UNIT_BYTES = 64 * 1024
"""Bytes of a body per further unit of work: some hundred groups, 5 ms of one core."""
UNDECLARED_BYTES = 1024 * 1024
"""What a body of undeclared length counts for in line; its bucket pays what it really had."""
SWEEP_AT = 1024
"""Teams in memory before idle ones are forgotten, which changes nothing for them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one process. Rates are per team and second, bursts what an idle team may send at once.

    Attributes:
        units: units of work of all teams at once, >= 1.
        team_units: of one team, 1 to `units`.
        queue: requests that wait, of all teams, >= 0.
        wait_s: longest wait in line, seconds.
        strangers_per_s: requests without a known key, of everybody together; a burst is ten seconds' worth.
    """

    requests_per_s: float
    request_burst: float
    bytes_per_s: float
    byte_burst: float
    units: int
    team_units: int
    queue: int
    wait_s: float
    strangers_per_s: float


class Bucket:
    """A token bucket that may be overdrawn by one request, so that none is too large for it.

    In any T seconds it lets through at most `burst + rate T` and one request more.
    """

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, max(burst, 1.0)
        self._level, self._at = self._burst, now

    def wait_s(self, now: float) -> float:
        """Return the seconds until a request may pass; 0 if one may now."""
        self._refill(now)
        return max(0.0, (1.0 - self._level) / self._rate)

    def take(self, amount: float, now: float) -> None:
        """Charge a request that passes, or what was not known of it then."""
        self._refill(now)
        self._level -= amount

    def is_full(self, now: float) -> bool:
        """Whether nothing is known here that a new bucket would not know."""
        self._refill(now)
        return self._level >= self._burst

    def _refill(self, now: float) -> None:
        self._level = min(self._burst, self._level + self._rate * max(0.0, now - self._at))
        self._at = max(self._at, now)


@dataclass(frozen=True, slots=True)
class Limited:
    """Turned away for the rate of requests (429)."""

    after_s: float


@dataclass(eq=False, slots=True)
class Ticket:
    """A request that is at work, waits, or was turned away from the line (503).

    Attributes:
        units: what it takes while it works.
        since: when it came.
        state: where it stands.
    """

    team: str
    units: int
    since: float
    state: Literal["waiting", "working", "shed", "done"] = "waiting"


@dataclass(slots=True)
class _Team:
    requests: Bucket
    bytes: Bucket
    waiting: deque[Ticket] = field(default_factory=deque)
    units: int = 0
    present: int = 0
    """Requests that have not left: in line, at work or outside."""
    given: float = 0.0
    """Units that this team was given so far, on the scale of `Gate._given`: the least is next."""


class Gate:
    """The decisions, and the state they need. Tickets that change beside the one in question are returned."""

    def __init__(self, limits: Limits, now: float) -> None:
        self.limits = limits
        self._teams: dict[str, _Team] = {}
        self._line: dict[str, _Team] = {}
        self._strangers = Bucket(limits.strangers_per_s, 10.0 * limits.strangers_per_s, now)
        self._given = 0.0
        self._sweep_at = SWEEP_AT
        self._outside = 0
        self.units = 0
        """Units at work."""
        self.waiting = 0
        """Requests in line."""

    def stranger(self, now: float) -> Limited | None:
        """Charge a request whose key is not known; return that it shall not even be looked up, if so."""
        wait_s = self._strangers.wait_s(now)
        if wait_s > 0.0:
            return Limited(wait_s)
        self._strangers.take(1.0, now)
        return None

    def arrive(self, name: str, size: int | None, now: float) -> tuple[Ticket | Limited, list[Ticket]]:
        """Decide about a request of a team.

        Args:
            name: the team.
            size: bytes of its body; None where it does not say.
            now: seconds of any clock that never goes back.

        Returns:
            `Limited`, or its ticket, which is `working`, `waiting` or `shed`; and another ticket that is shed for it.
        """
        team = self._team(name, now)
        wait_s = max(team.requests.wait_s(now), team.bytes.wait_s(now))
        if wait_s > 0.0:
            return Limited(wait_s), []
        team.requests.take(1.0, now)
        team.bytes.take(size or 0, now)
        units = 1 + (UNDECLARED_BYTES if size is None else size) // UNIT_BYTES
        ticket = Ticket(name, min(units, self.limits.team_units), now)
        if not team.waiting:
            team.given = max(team.given, self._given)
        team.waiting.append(ticket)
        team.present += 1
        self._line[name] = team
        self.waiting += 1
        self._start()
        shed = [self._turn_away()] if self.waiting > self.limits.queue else []
        return ticket, [other for other in shed if other is not ticket]

    def charge(self, name: str, size: int, now: float) -> None:
        """Charge bytes that a request did not declare."""
        self._team(name, now).bytes.take(size, now)

    def leave(self, ticket: Ticket) -> list[Ticket]:
        """End the work of a ticket; return those that start now."""
        self._end(ticket)
        self._teams[ticket.team].present -= 1
        ticket.state = "done"
        return self._start()

    def give_up(self, ticket: Ticket) -> list[Ticket]:
        """Take a ticket out of the line; return those that start now, for it may have kept the next ones waiting."""
        self._shed(ticket)
        return self._start()

    def step_out(self, ticket: Ticket) -> list[Ticket] | None:
        """Let a ticket wait for somebody else without its units; None if too many do already, else who starts now."""
        if self._outside >= self.limits.queue:
            return None
        self._outside += 1
        self._end(ticket)
        return self._start()

    def step_in(self, ticket: Ticket) -> None:
        """Take a ticket back to work, at once: it is half done, and everything new waits until there is room."""
        self._outside -= 1
        self._begin(ticket)

    def _start(self) -> list[Ticket]:
        """Start who is next while there is room. Who is next and too large keeps its turn: nothing small overtakes it."""
        started = []
        while (name := self._next()) is not None:
            team = self._line[name]
            if self.units + team.waiting[0].units > self.limits.units:
                break
            ticket = team.waiting[0]
            self._remove(ticket)
            self._begin(ticket)
            self._given = max(self._given, team.given)
            team.given += ticket.units
            ticket.state = "working"
            started.append(ticket)
        return started

    def _next(self) -> str | None:
        """Return the team that was given least, of those that wait and are below their share."""
        most = self.limits.team_units
        able = [name for name, team in self._line.items() if team.units + team.waiting[0].units <= most]
        return min(able, key=lambda name: self._line[name].given, default=None)

    def _turn_away(self) -> Ticket:
        """Shed the last in line: the newest request of the team whose requests reach furthest ahead."""

        def end(name: str) -> float:
            team = self._line[name]
            return team.given + sum(ticket.units for ticket in team.waiting)

        ticket = self._line[max(self._line, key=end)].waiting[-1]
        self._shed(ticket)
        return ticket

    def _shed(self, ticket: Ticket) -> None:
        self._remove(ticket)
        self._teams[ticket.team].present -= 1
        ticket.state = "shed"

    def _begin(self, ticket: Ticket) -> None:
        self.units += ticket.units
        self._teams[ticket.team].units += ticket.units

    def _end(self, ticket: Ticket) -> None:
        self.units -= ticket.units
        self._teams[ticket.team].units -= ticket.units

    def _remove(self, ticket: Ticket) -> None:
        team = self._line[ticket.team]
        team.waiting.remove(ticket)
        self.waiting -= 1
        if not team.waiting:
            del self._line[ticket.team]

    def _team(self, name: str, now: float) -> _Team:
        if (found := self._teams.get(name)) is not None:
            return found
        if len(self._teams) >= self._sweep_at:
            self._forget(now)
        limits = self.limits
        made = _Team(
            Bucket(limits.requests_per_s, limits.request_burst, now), Bucket(limits.bytes_per_s, limits.byte_burst, now)
        )
        self._teams[name] = made
        return made

    def _forget(self, now: float) -> None:
        """Forget teams that a new entry would treat alike."""
        self._teams = {
            name: team
            for name, team in self._teams.items()
            if team.present or not (team.requests.is_full(now) and team.bytes.is_full(now))
        }
        self._sweep_at = max(SWEEP_AT, 2 * len(self._teams))
