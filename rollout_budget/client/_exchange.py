"""What one call to a service is, and what its failures mean. Pure: no socket, no clock, no waiting.

Owns the encoding of calls, the judgement of answers (problem+json to the errors of `rollout_budget.errors`, by `code`)
and the rule of what is tried again. The layers that send are `client/_http.py` and its generated twin.

A failed attempt is tried again only if it has a name in this file: no connection, a broken or late answer, 429, 502,
503, 504, and 409 where the service says that the same request is still in flight. All calls are idempotent by their
ids, so that a second delivery is harmless.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from rollout_budget.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    RolloutBudgetError,
    RunFinished,
    ServiceError,
    Unauthorized,
    Unavailable,
)
from rollout_budget.wire import Problem, Wire

A = TypeVar("A", bound=BaseModel)

TIMEOUT = httpx.Timeout(10.0, connect=3.0)
"""Seconds for each read, write and wait for a pooled connection; a service on the same network connects in far less."""

UNTOUCHED = frozenset({429, 503})
"""Statuses that say: not now, and nothing was done (rate limits, shed load), unless the problem's code says unknown."""
UNCERTAIN = frozenset({502, 504})
"""Statuses of a proxy that lost its server: the request may have been delivered."""
IN_FLIGHT = 409
"""The status of a twin still in flight, tried again where the problem says `retryable`."""
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Transport errors before the first byte; after any other the request may have been delivered."""
MOST_DOUBLINGS = 64
"""Of the first wait: any bound is reached long before, and no exponent overflows."""
SHOWN_IDS = 5
"""Ids that an error names before it says how many more there are: a message stays readable."""

AGAIN = "The same request may be sent again at any time; it takes effect once."

BY_CODE: dict[str, type[RolloutBudgetError]] = {
    error.code: error
    for error in (InvalidInput, Conflict, RunFinished, NotFound, Unauthorized, Unavailable, OutcomeUnknown)
}
BY_STATUS: dict[int, type[RolloutBudgetError]] = {
    400: InvalidInput,
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    409: Conflict,
    413: InvalidInput,
    422: InvalidInput,
}
"""For problems whose `code` this version does not know."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and for how long a call is tried again; bounded both ways.

    Attributes:
        attempts: most attempts, the first included, >= 1.
        timeout_s: no attempt starts this long after the first.
        wait_initial_s, wait_max_s: waits double from the first to the second. A `Retry-After` above `wait_max_s` ends
            the call at once: coming back early would be rude, waiting longer unbounded.
        wait_jitter_s: most that is added to each wait, at random, so that many clients do not return together.
    """

    attempts: int = 4
    timeout_s: float = 20.0
    wait_initial_s: float = 0.1
    wait_max_s: float = 5.0
    wait_jitter_s: float = 0.4

    def wait_s(self, failure: Failure, attempts: int, elapsed_s: float) -> float | None:
        """Return the seconds before the next attempt, None if there shall be none.

        Args:
            failure: the last attempt's.
            attempts: how many there were, >= 1.
            elapsed_s: seconds since the first began.
        """
        if not failure.again or attempts >= self.attempts:
            return None
        doubled = min(self.wait_initial_s * 2.0 ** min(attempts - 1, MOST_DOUBLINGS), self.wait_max_s)
        least = doubled if failure.after_s is None else failure.after_s
        wait = least + random.uniform(0.0, self.wait_jitter_s)  # noqa: S311 - spreads clients, guards no secret
        return wait if least <= self.wait_max_s and elapsed_s + wait < self.timeout_s else None


@dataclass(frozen=True, slots=True)
class Call(Generic[A]):
    """One request and the type of its answer.

    Attributes:
        path: from the root, with every id percent-encoded (see `path`).
        effect: what may have happened when no answer came, and how to ask; None where a call stores nothing.
    """

    method: str
    path: str
    answer: type[A]
    body: Wire | None = None
    params: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    effect: str | None = None

    def content(self) -> bytes | None:
        """Return the body as JSON; absent and null mean the same in every request.

        Only what the caller has set is sent: a service of an older release refuses fields that it does not know.
        """
        return None if self.body is None else self.body.model_dump_json(exclude_none=True, exclude_unset=True).encode()

    def read(self, response: httpx.Response) -> A:
        """Decode a good answer.

        Raises:
            ServiceError: this is not the answer that this version of the client knows.
        """
        try:
            return self.answer.model_validate_json(response.content)
        except ValidationError as error:
            what = f"{self.method} {self.path}: the answer is not a {self.answer.__name__}"
            raise ServiceError(f"{what} ({error.error_count()} fields differ); do client and service match?") from None


class Failure(Exception):
    """One attempt that failed.

    Attributes:
        error: what it means to the caller, if nothing follows.
        again: whether another attempt may help.
        perhaps_done: whether this attempt may have taken effect.
        after_s: seconds the service asked to wait before the next one.
    """

    def __init__(
        self, error: RolloutBudgetError, *, again: bool, perhaps_done: bool = False, after_s: float | None = None
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.perhaps_done = perhaps_done
        self.after_s = after_s


def path(*segments: str) -> str:
    """Return `/v1/a/b/c` with every segment percent-encoded, so that an id may hold `/`, `?`, `%` or any script.

    Raises:
        InvalidInput: a segment is empty and would name another route.
    """
    if not all(segments):
        raise InvalidInput("an id in a path must not be empty")
    return "/v1/" + "/".join(
        quote(segment, safe="") if segment.strip(".") else segment.replace(".", "%2E") for segment in segments
    )


def query(**values: str | int | None) -> dict[str, str]:
    """Return the parameters of a query as they are sent; None is not sent."""
    return {name: str(value) for name, value in values.items() if value is not None}


def checked_url(base_url: str) -> str:
    """Return where a service is.

    Raises:
        InvalidInput: this is no address of one: no attempt could reach it, so none is made.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise InvalidInput(f"base_url {base_url!r} is no URL: {error}") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise InvalidInput(f"base_url {base_url!r} needs http:// or https:// and a host")
    return base_url


def checked_key(api_key: str) -> str:
    """Return a key as it is sent: without the white space around it that comes with reading it from a file.

    Raises:
        InvalidInput: no header can carry it; the message does not show it.
    """
    key = api_key.strip()
    if not key or not all("!" <= character <= "~" for character in key):
        raise InvalidInput("api_key is empty or holds blanks, line ends or characters beyond ASCII")
    return key


def names(kind: str, ids: list[str]) -> str:
    """Return `groups 'a', 'b' and 3 more`: enough to find what an error speaks of."""
    shown = ", ".join(repr(item) for item in ids[:SHOWN_IDS])
    return f"{kind} {shown}" + (f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else "")


def transport_failure(call: Call[A], error: httpx.TransportError) -> Failure:
    """Judge an attempt that ended without an answer."""
    sent = not isinstance(error, NEVER_SENT)
    what = "sent, but no whole answer came" if sent else "no connection"
    where = f"{error.request.url.scheme}://{error.request.url.netloc.decode()}"
    unavailable = Unavailable(f"{call.method} {call.path} at {where}: {what} ({type(error).__name__}: {error})")
    return Failure(unavailable, again=True, perhaps_done=sent)


def judge(call: Call[A], response: httpx.Response) -> None:
    """Pass a good answer.

    Raises:
        Failure: the answer says that the call failed.
    """
    if response.is_success:
        return
    status = response.status_code
    problem = _problem(response)
    again = (
        status in UNTOUCHED
        or status in UNCERTAIN
        or (status == IN_FLIGHT and problem is not None and problem.retryable)
    )
    detail = (
        f"{problem.title}: {problem.detail}" if problem else f"HTTP {status} {response.reason_phrase}, no problem+json"
    )
    error = Unavailable if again else _error_type(status, problem)
    raise Failure(
        error(f"{call.method} {call.path}: {detail}"),
        again=again,
        perhaps_done=again
        and (status not in UNTOUCHED or (problem is not None and problem.code == OutcomeUnknown.code)),
        after_s=_retry_after_s(response),
    )


def conclude(call: Call[A], last: Failure, *, perhaps_done: bool) -> RolloutBudgetError:
    """Return the error that the caller sees after the last attempt, `perhaps_done` being that of any attempt."""
    if last.again and perhaps_done and call.effect is not None:
        return OutcomeUnknown(f"{call.effect} Last attempt: {last.error}")
    return last.error


def _problem(response: httpx.Response) -> Problem | None:
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:
        return None


def _error_type(status: int, problem: Problem | None) -> type[RolloutBudgetError]:
    """Without problem+json the answer is not our service's: nothing but a rejected key can be read from it."""
    if problem is None:
        return Unauthorized if BY_STATUS.get(status) is Unauthorized else ServiceError
    return BY_CODE.get(problem.code) or BY_STATUS.get(status, ServiceError)


def _retry_after_s(response: httpx.Response) -> float | None:
    """Read `Retry-After` in seconds; a date, which needs a clock in common, counts as none."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
