"""A session in a trainer's own loop: with a service, without one, with one that dies, refuses or has ended the run."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import rollout_budget as rb
from rollout_budget.client.notices import Notice
from rollout_budget.errors import InvalidInput, Unauthorized
from rollout_budget.wire import CloseGroup, CloseRequest, OpenAnswer, OpenRequest, RunLimits
from services.allocator.app import create_app
from services.allocator.settings import Settings
from tests.allocator.databases import fresh_sqlite
from tests.served import served

PROMPTS = [rb.Prompt(f"p{number}", f"prompt {number}") for number in range(6)]
OUTCOMES = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0] * 2


@pytest.fixture
def service(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A real allocator; where it is, and a team's key."""
    settings = Settings(data=tmp_path, database_url=SecretStr(fresh_sqlite(tmp_path)))
    with served(create_app(settings)) as url:
        yield {"url": url, "key": (tmp_path / "team.key").read_text().strip()}


@pytest.fixture(autouse=True)
def _nothing_from_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROLLOUT_BUDGET_URL", raising=False)
    monkeypatch.delenv("ROLLOUT_BUDGET_KEY", raising=False)


def play(session: rb.Session, version: int) -> list[rb.Group]:
    """Draw a step as a trainer would, with outcomes that depend on nothing but their place."""
    groups = session.open(PROMPTS, version=version)
    for wave in session.waves(groups):
        for group in wave:
            group.add(OUTCOMES[group.size : group.size + group.want], tokens=10 * group.want)
    return groups


def test_with_and_without_a_service_the_decisions_are_the_same(service: dict[str, str]) -> None:
    """Sizes, baselines and advantages of a step; the service's ledger has what two steps drew.

    Later steps differ by when evidence arrives: at once here, shortly after in the service.
    """
    with rb.Session("here", policy="m", k_init=2) as session:
        here = [play(session, version) for version in range(2)]
    with rb.Session("there", policy="m", k_init=2, **service) as session:
        there = [play(session, version) for version in range(2)]
        figures = session.metrics()
    assert session.fallback_total == 0
    for group, twin in zip(here[0], there[0], strict=True):
        assert group.outcomes == twin.outcomes
        assert group.advantages == pytest.approx(twin.advantages)
        assert len(group.advantages) == group.size > 0
    drawn = sum(group.size for step in there for group in step)
    with rb.SyncAllocatorClient(service["url"], service["key"]) as client:
        usage = client.get_run("there").usage
    assert (usage.committed, usage.reserved, usage.overage, usage.tokens) == (drawn, 0, 0, 10 * drawn)
    assert figures["budget/used"] == drawn
    assert figures["budget/granted"] == drawn + figures["budget/returned"] == usage.granted
    assert figures["budget/extra"] == usage.extra


async def test_the_awaited_twin_does_the_same(service: dict[str, str]) -> None:
    async with rb.AsyncSession("twin", policy="m", k_init=2, url=service["url"], key=service["key"]) as session:
        groups = await session.open(PROMPTS, version=0)
        async for wave in session.waves(groups):
            for group in wave:
                group.add(OUTCOMES[group.size : group.size + group.want])
    assert all(group.closed and group.size >= 2 for group in groups)


def test_a_loop_that_is_left_early_gives_back_what_it_did_not_draw(service: dict[str, str]) -> None:
    with rb.Session("left", policy="m", k_init=4, **service) as session:
        groups = session.open(PROMPTS, version=0)
        for wave in session.waves(groups):
            wave[0].add([1.0])
            break
        with rb.SyncAllocatorClient(service["url"], service["key"]) as client:
            usage = client.get_run("left").usage
    assert (usage.committed, usage.reserved) == (1, 0)
    assert usage.granted - usage.committed == usage.released


async def test_a_session_closes_what_its_loop_left_open(service: dict[str, str]) -> None:
    """`async for` does not end its generator when it is left; the end of the session gives back what was not drawn."""
    async with rb.AsyncSession("left", policy="m", k_init=4, url=service["url"], key=service["key"]) as session:
        groups = await session.open(PROMPTS, version=0)
        waves = session.waves(groups)
        async for wave in waves:
            wave[0].add([1.0])
            break
    async with rb.AllocatorClient(service["url"], service["key"]) as client:
        usage = (await client.get_run("left")).usage
    assert (usage.committed, usage.reserved) == (1, 0)
    await waves.aclose()
    assert session.metrics()["budget/used"] == 1  # closed once, by whichever end came first


def test_a_trainer_that_never_reads_its_figures_keeps_no_group() -> None:
    with rb.Session("unread", policy="m", k_init=2) as session:
        kept = [weakref.ref(group) for group in play(session, 0)]
        gc.collect()
        assert [ref() for ref in kept] == [None] * len(PROMPTS)
        assert session.metrics()["budget/local_groups"] == 0


def test_a_group_that_nothing_is_added_to_ends_the_waves() -> None:
    """A sampler that fails for good does not spin."""
    with rb.Session("failing", policy="m") as session:
        groups = session.open(PROMPTS, version=0)
        assert len(list(session.waves(groups))) == 1
    assert [group.advantages for group in groups] == [[]] * len(PROMPTS)


def test_rollouts_without_an_outcome_are_charged_and_teach_nothing(service: dict[str, str]) -> None:
    """Two of the first wave of four cannot be verified: they are not drawn again beyond what is granted."""
    with rb.Session("unverified", policy="m", k_init=4, k_max=4, **service) as session:
        (group,) = session.open(PROMPTS[:1], version=0)
        group.add([1.0, 0.0], lost=2)
        assert session.observe([group]) == []
        assert group.decision is not None
        assert group.decision.more > 0
        session.close([group])
        figures = session.metrics()
    with rb.SyncAllocatorClient(service["url"], service["key"]) as client:
        usage = client.get_run("unverified").usage
    assert (usage.committed, usage.reserved, usage.overage) == (4, 0, 0)
    assert (group.size, group.used, len(group.advantages), figures["budget/used"]) == (2, 4, 2, 4)


def test_a_budget_that_is_gone_wants_nothing_and_raises_nothing(service: dict[str, str]) -> None:
    with rb.Session("short", policy="m", k_init=2, limits=RunLimits(rollouts=8), **service) as session:
        groups = play(session, 0) + play(session, 1)
        figures = session.metrics()
    assert sum(group.size for group in groups) == 8
    assert figures["budget/refused_groups"] >= len(PROMPTS)
    assert play_nothing(groups[-1])


def play_nothing(group: rb.Group) -> bool:
    """Whether a group was refused, and still tells what its baseline would have been."""
    return group.size == 0 and group.advantages == [] and group.baseline == group.prior


@pytest.mark.services
def test_a_service_that_dies_in_the_middle_stops_nothing(tmp_path: Path) -> None:
    """The next step is decided here, said once; after its return the ledger has every rollout."""
    settings = Settings(data=tmp_path, database_url=SecretStr(fresh_sqlite(tmp_path)))
    said: list[Notice] = []
    with served(create_app(settings)) as url:
        port = int(url.rpartition(":")[2])
        key = (tmp_path / "team.key").read_text().strip()
        session = rb.Session("survivor", policy="m", k_init=2, url=url, key=key, notify=said.append)
        session.__enter__()
        drawn = sum(group.size for group in play(session, 0))
    drawn += sum(group.size for group in play(session, 1))
    assert [notice.kind for notice in said] == ["away"]
    assert session.metrics()["budget/fallback_total"] > 0
    with served(create_app(settings), port=port) as url:
        session.__exit__(None, None, None)
        with rb.SyncAllocatorClient(url, key) as client:
            usage = client.get_run("survivor").usage
    assert usage.committed + usage.overage == drawn


def test_an_id_that_is_taken_is_opened_as_another_attempt(service: dict[str, str]) -> None:
    """As a trainer that goes on after a crash issues the same ids again, with other weights."""
    for version in range(2):
        with rb.Session("again", policy="m", k_init=2, **service) as session:
            groups = session.open([rb.Prompt("p", "text", group="uid")], version=version)
            groups[0].add([1.0, 0.0])
            session.close(groups)
    with rb.SyncAllocatorClient(service["url"], service["key"]) as client:
        assert client.get_run("again").usage.committed == 4
    assert groups[0].attempt > 0


def test_a_run_that_was_ended_is_decided_here_and_said_once(service: dict[str, str]) -> None:
    said: list[Notice] = []
    with rb.Session("ended", policy="m", k_init=2, **service) as session:
        play(session, 0)
    with rb.SyncAllocatorClient(service["url"], service["key"]) as client:
        client.finish_run("ended")
    with rb.Session("ended", policy="m", k_init=2, notify=said.append, **service) as session:
        groups = play(session, 1) + play(session, 2)
        figures = session.metrics()
    assert all(group.local and group.size >= 2 and len(group.advantages) == group.size for group in groups)
    assert [notice.kind for notice in said] == ["refused"]
    assert figures["budget/errors_total"] == 2
    assert figures["budget/local_groups"] == len(groups)


class Broken:
    """An allocator that refuses whatever comes after `open`, as one that lost its groups would."""

    def __init__(self) -> None:
        self._whole = rb.LocalAllocator()
        self.create_run = self._whole.create_run

    async def open(self, run_id: str, request: OpenRequest) -> OpenAnswer:
        """Grant the first wave."""
        return await self._whole.open(run_id, request)

    async def observe(self, run_id: str, _request: Any) -> None:
        """Know nothing."""
        raise rb.RolloutBudgetError(run_id)

    close = observe


def test_groups_that_the_service_lost_still_have_advantages() -> None:
    """Baselines come from their frozen priors and what was drawn; nothing more is wanted."""
    said: list[Notice] = []
    with rb.Session("lost", policy="m", k_init=4, allocator=Broken(), notify=said.append) as session:
        groups = session.open(PROMPTS, version=0)
        for wave in session.waves(groups):
            for group in wave:
                group.add(OUTCOMES[: group.want])
    assert all(group.size == 4 and sum(map(abs, group.advantages)) > 0 for group in groups)
    assert [notice.kind for notice in said] == ["refused", "refused"]


class Deaf(Broken):
    """An allocator that refuses reports, and takes settlements."""

    def __init__(self) -> None:
        super().__init__()
        self.settled: list[CloseGroup] = []

    async def close(self, run_id: str, request: CloseRequest) -> None:  # noqa: ARG002  whose it is
        """Keep what was settled."""
        self.settled += request.groups


def test_outcomes_whose_report_was_refused_come_with_the_settlement() -> None:
    """Else they would be charged, and nothing would be learned from them."""
    allocator = Deaf()
    with rb.Session("deaf", policy="m", k_init=4, allocator=allocator, notify=lambda _: None) as session:
        session.score([rb.Drawn(PROMPTS[0], OUTCOMES[:4])], version=0)
    assert [(one.used, one.outcomes) for one in allocator.settled] == [(4, OUTCOMES[:4])]


def test_shaped_rewards_make_advantages_and_outcomes_make_decisions() -> None:
    with rb.Session("shaped", policy="m", k_init=2, k_max=2) as session:
        groups = session.open(["a", "b"], version=0)
        groups[0].add([1.0, 0.0])
        groups[1].add([1.0, 0.0], rewards=[5.0, -5.0])
        session.close(groups)
    assert groups[0].baseline == groups[1].baseline
    assert groups[1].advantages[0] > groups[0].advantages[0] > 0


def test_a_trainer_with_sizes_of_its_own_gets_advantages_for_what_it_drew() -> None:
    """Ragged sizes, and more than was granted: booked as overage, said in the figures."""
    drawn = [rb.Drawn(rb.Prompt(f"p{size}"), OUTCOMES[:size]) for size in (1, 3, 5)]
    with rb.Session("own", policy="m", outcome_range={"low": -1.0, "high": 1.0}) as session:
        groups = session.score(drawn, version=3)
    assert [len(group.advantages) for group in groups] == [1, 3, 5]
    assert session.metrics()["budget/used"] == 9


@pytest.mark.parametrize(
    ("rules", "said"),
    [({"k_innit": 3}, "k_innit"), ({"stopping": "never"}, "stopping"), ({"k_init": 9, "k_max": 4}, "exceeds")],
)
def test_a_rule_that_does_not_exist_raises_at_once(rules: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        rb.Session("r", **rules)


def test_a_key_that_is_missing_or_wrong_raises_at_the_start(service: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="needs a key"):
        rb.Session("r", url=service["url"])
    with pytest.raises(Unauthorized), rb.Session("r", url=service["url"], key="rbk_" + "x" * 40):
        pass


@pytest.mark.parametrize(
    ("outcomes", "rewards", "said"),
    [([2.0], None, "outside"), ([float("nan")], None, "outside"), ([1.0], [], "rewards")],
)
def test_outcomes_are_checked_where_they_are_added(
    outcomes: list[float], rewards: list[float] | None, said: str
) -> None:
    with rb.Session("checked", policy="m") as session:
        group = session.open(["p"], version=0)[0]
        with pytest.raises(InvalidInput, match=said):
            group.add(outcomes, rewards)
        assert group.outcomes == []
        with pytest.raises(InvalidInput, match="twice"):
            session.open(["p", "p"], version=1)


def test_it_works_inside_a_loop_that_runs_already() -> None:
    """As in a notebook, or an actor of Ray."""

    async def cell() -> int:
        with rb.Session("cell", policy="m") as session:
            return len(play(session, 0))

    assert asyncio.run(cell()) == len(PROMPTS)


def test_a_prompt_of_any_length_is_opened(service: dict[str, str]) -> None:
    """What lies beyond the allocator's longest text is left out, with a service and without; no trainer ends over it."""
    endless = rb.Prompt("long", "word " * 20_000)
    for where in ({}, service):
        with rb.Session("long", policy="m", k_init=2, **where) as session:
            (group,) = session.open([endless], version=0)
            assert group.want == 2
            assert session.metrics()["budget/errors_total"] == 0
