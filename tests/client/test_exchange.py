"""What failures mean: the judgement of answers and the bounds of retries."""

from __future__ import annotations

import asyncio
import logging
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_budget.client import AllocatorClient, Retries, SyncAllocatorClient
from rollout_budget.client._exchange import Failure, path
from rollout_budget.client._waiting import pause_of
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
from rollout_budget.wire import (
    MAX_GROUPS,
    BudgetView,
    OpenAnswer,
    OpenGroup,
    OpenRequest,
    Problem,
    RolloutCounts,
    TeamLimits,
)
from tests.client.routes import OPEN

KEY = "rb_never-to-be-seen"
BUDGET = BudgetView(team="t", limits=TeamLimits(), usage=RolloutCounts(), available=None).model_dump_json()
OPENED = OpenAnswer(groups=[]).model_dump_json()

Reply = httpx.Response | Exception


@pytest.mark.parametrize("url", ["", "localhost:8100", "127.0.0.1:8100", "http://", "http://host:port", "ftp://host"])
def test_an_address_that_is_none_is_refused_before_any_attempt(url: str) -> None:
    """A forgotten scheme is the caller's slip, not a service that is away."""
    with pytest.raises(InvalidInput, match="base_url"):
        SyncAllocatorClient(url, KEY)


def test_a_key_as_read_from_its_file_loses_its_line_end() -> None:
    """The services end their key files with a line end."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return good(BUDGET)

    with SyncAllocatorClient("http://service.test", f"{KEY}\n", transport=httpx.MockTransport(answer)) as allocator:
        allocator.budget()
    assert seen == [f"Bearer {KEY}"]


@pytest.mark.parametrize("key", ["", "\n", f"{KEY}\n{KEY}", f"{KEY} x", f"{KEY}\u2013"])
def test_a_key_that_no_header_carries_is_refused_unseen(key: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is refused when the client is made, and shown neither by the error nor by the log."""
    with pytest.raises(InvalidInput, match="api_key") as error:
        SyncAllocatorClient("http://service.test", key)
    assert KEY not in str(error.value) + caplog.text


def good(content: str) -> httpx.Response:
    return httpx.Response(200, content=content)


def problem(status: int, code: str, *, retryable: bool = False, **headers: str) -> httpx.Response:
    body = Problem(title="Title", status=status, detail="Detail.", code=code, retryable=retryable)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(
        status, headers={"content-type": "application/problem+json", **headers}, content=body.model_dump_json()
    )


class Script:
    """A service that plays its replies in order; exceptions are transport errors."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)
        self.calls = 0

    def __call__(self, _: httpx.Request) -> httpx.Response:
        reply = self._replies[self.calls]
        self.calls += 1
        if isinstance(reply, Exception):
            raise reply
        return reply


def client(script: Script, **options: object) -> SyncAllocatorClient:
    return SyncAllocatorClient("http://service.test", KEY, transport=httpx.MockTransport(script), **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Retries keep their number and lose their waits, which are noted."""
    noted: list[float] = []

    async def note(seconds: float) -> None:
        noted.append(seconds)

    monkeypatch.setattr("rollout_budget.client._http.pause_of", lambda _: note)
    monkeypatch.setattr("rollout_budget.client.sync._http.pause_of", lambda _: noted.append)
    return noted


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (422, "invalid-input", InvalidInput),
        (400, "idempotency-key-missing", InvalidInput),
        (413, "too-large", InvalidInput),
        (422, "id-reused", Conflict),
        (409, "run-finished", RunFinished),
        (409, "anything-else", Conflict),
        (404, "not-found", NotFound),
        (401, "unauthorized", Unauthorized),
        (403, "forbidden", Unauthorized),
        (405, "method-not-allowed", ServiceError),
        (500, "internal", ServiceError),
    ],
)
def test_a_problem_is_its_error_at_once(status: int, code: str, error: type[RolloutBudgetError]) -> None:
    """What a repetition cannot mend is not repeated, and its detail reaches the caller."""
    script = Script(problem(status, code))
    with pytest.raises(error, match="Detail") as raised:
        client(script).budget()
    assert type(raised.value) is error
    assert script.calls == 1


@pytest.mark.parametrize("status", [404, 409, 422, 302, 500])
def test_an_answer_of_somebody_else_is_a_service_error(status: int) -> None:
    """A proxy's page says nothing about runs or ids, so it must not look like `NotFound` or `Conflict`."""
    with pytest.raises(ServiceError, match=f"HTTP {status}"):
        client(Script(httpx.Response(status, html="<h1>nginx</h1>"))).budget()


def test_a_proxy_that_rejects_the_key_is_unauthorized() -> None:
    with pytest.raises(Unauthorized):
        client(Script(httpx.Response(403, html="<h1>no</h1>"))).budget()


def test_an_answer_of_another_version_is_a_service_error() -> None:
    with pytest.raises(ServiceError, match="not a BudgetView"):
        client(Script(good("{}"))).budget()


@pytest.mark.parametrize(
    "hiccup",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("hung up"),
        problem(429, "rate-limited", retry_after="1"),
        problem(502, "bad-gateway"),
        problem(503, "unavailable", retry_after="1"),
        problem(504, "gateway-timeout"),
        problem(409, "in-flight", retryable=True),
        httpx.Response(503, html="<h1>nginx</h1>"),
    ],
    ids=repr,
)
def test_named_failures_are_tried_again(hiccup: Reply) -> None:
    script = Script(hiccup, hiccup, good(OPENED))
    assert client(script).open("r", OPEN) == OpenAnswer(groups=[])
    assert script.calls == 3


@pytest.mark.parametrize("hiccup", [httpx.ConnectError("refused"), problem(503, "unavailable"), problem(429, "rate")])
def test_before_any_delivery_the_end_is_unavailable(hiccup: Reply) -> None:
    """The caller may be sure that nothing happened."""
    script = Script(*[hiccup] * 4)
    with pytest.raises(Unavailable) as raised:
        client(script).open("r", OPEN)
    assert type(raised.value) is Unavailable
    assert script.calls == 4


@pytest.mark.parametrize(
    "hiccup", [httpx.ReadTimeout("slow"), problem(504, "gateway-timeout"), problem(503, "outcome-unknown")]
)
def test_after_a_possible_delivery_the_end_is_outcome_unknown(hiccup: Reply) -> None:
    """One lost answer is enough, whatever the later attempts met; the message names the ids and how to ask."""
    refused = httpx.ConnectError("refused")
    with pytest.raises(OutcomeUnknown, match=r"groups 'g' of run 'r' may have been opened.*reservation"):
        client(Script(refused, hiccup, refused, refused)).open("r", OPEN)


def test_a_lost_answer_to_a_question_is_unavailable() -> None:
    """Where nothing is stored nothing can be unknown."""
    with pytest.raises(Unavailable):
        client(Script(*[httpx.ReadTimeout("slow")] * 4)).budget()


def test_a_definite_answer_after_a_lost_one_stands() -> None:
    with pytest.raises(Conflict):
        client(Script(httpx.ReadTimeout("slow"), problem(422, "id-reused"))).open("r", OPEN)


def test_many_ids_are_named_shortly() -> None:
    request = OpenRequest(groups=[OpenGroup(group_id=f"g{i}", prompt_key="k") for i in range(9)])
    with pytest.raises(OutcomeUnknown, match=r"'g0', 'g1', 'g2', 'g3', 'g4' and 4 more"):
        client(Script(*[httpx.ReadTimeout("slow")] * 4)).open("r", request)


def test_a_batch_over_the_bound_never_leaves() -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_GROUPS}"):
        OpenRequest(groups=[OpenGroup(group_id=f"g{i}", prompt_key="k") for i in range(MAX_GROUPS + 1)])


def test_retry_after_is_kept_with_jitter() -> None:
    """Never earlier than the service asked, and not all clients in the same moment."""
    retries = Retries(wait_jitter_s=0.5)
    shed = Failure(Unavailable(), again=True, after_s=2.0)
    waits = [wait for _ in range(50) if (wait := retries.wait_s(shed, 1, 0.0)) is not None]
    assert len(waits) == 50
    assert all(2.0 <= wait <= 2.5 for wait in waits)
    assert len(set(waits)) > 1


def test_waits_double_up_to_their_bound() -> None:
    retries = Retries(attempts=10_000, wait_initial_s=0.1, wait_max_s=5.0, wait_jitter_s=0.0)
    lost = Failure(Unavailable(), again=True)
    assert [retries.wait_s(lost, attempts, 0.0) for attempts in (1, 2, 3, 7, 9_999)] == [0.1, 0.2, 0.4, 5.0, 5.0]


def test_no_attempt_starts_after_the_time_is_up() -> None:
    retries = Retries(timeout_s=20.0, wait_initial_s=1.0, wait_jitter_s=0.0)
    lost = Failure(Unavailable(), again=True)
    assert retries.wait_s(lost, 1, 18.9) == 1.0
    assert retries.wait_s(lost, 1, 19.0) is None


async def test_retries_are_logged_and_never_printed(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], waits: list[float]
) -> None:
    """Both clients wait as stated and tell their own logger, whatever else is installed; standard output is the user's."""
    refused = httpx.ConnectError("refused")
    assert client(Script(refused, good(BUDGET))).budget().team == "t"
    script = Script(refused, good(BUDGET))
    async with AllocatorClient("http://service.test", KEY, transport=httpx.MockTransport(script)) as allocator:
        assert (await allocator.budget()).team == "t"
    assert len(waits) == 2
    assert all(0.1 <= wait <= 0.5 for wait in waits)
    assert [record.name for record in caplog.records if "attempt 1 failed" in record.message] == [
        "rollout_budget.client"
    ] * 2
    assert capfd.readouterr().out == ""


def test_a_longer_retry_after_than_the_bound_ends_the_call() -> None:
    script = Script(problem(429, "rate-limited", retry_after="3600"))
    with pytest.raises(Unavailable):
        client(script).budget()
    assert script.calls == 1


@pytest.mark.parametrize("value", ["", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "nan", "-1", "inf"])
def test_an_unreadable_retry_after_counts_as_none(value: str) -> None:
    script = Script(problem(503, "unavailable", retry_after=value), good(BUDGET))
    assert client(script).budget().team == "t"


def test_one_attempt_means_one() -> None:
    script = Script(httpx.ConnectError("refused"))
    with pytest.raises(Unavailable):
        client(script, retries=Retries(attempts=1)).budget()


async def test_the_asynchronous_client_judges_alike() -> None:
    script = Script(httpx.ReadTimeout("slow"), problem(503, "unavailable"), good(OPENED))
    async with AllocatorClient("http://service.test", KEY, transport=httpx.MockTransport(script)) as allocator:
        assert await allocator.open("r", OPEN) == OpenAnswer(groups=[])
    assert script.calls == 3


def test_no_message_and_no_log_shows_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    script = Script(*[httpx.ReadTimeout("slow")] * 4)
    allocator = client(script)
    with pytest.raises(OutcomeUnknown) as raised:
        allocator.open("r", OPEN)
    seen: BaseException | None = raised.value
    while seen is not None:
        assert KEY not in repr(seen)
        seen = seen.__cause__ or seen.__context__
    assert KEY not in caplog.text
    assert KEY not in repr(vars(allocator)) + repr(vars(allocator._http))


IDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)


@given(IDS, IDS)
def test_any_id_survives_the_path(first: str, second: str) -> None:
    """As a server decodes it, once, the path has the id in it whole; no two pairs of ids share a path."""
    url = httpx.URL("http://service.test").copy_with(raw_path=path("runs", first, "groups", second).encode())
    parts = url.raw_path.decode().split("/")
    assert parts[:3] == ["", "v1", "runs"]
    assert [httpx.URL(f"http://x/{part}").path[1:] for part in (parts[3], parts[5])] == [first, second]


def test_an_empty_id_is_refused_here() -> None:
    """`/v1/runs/` would be another route."""
    with pytest.raises(InvalidInput):
        client(Script()).get_run("")


async def test_each_client_waits_in_its_own_manner() -> None:
    """A blocking client blocks its thread, an asynchronous one only its task."""
    with httpx.Client() as blocking:
        assert pause_of(blocking) is time.sleep
    async with httpx.AsyncClient() as asynchronous:
        assert pause_of(asynchronous) is asyncio.sleep
