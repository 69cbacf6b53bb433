"""What crosses between teams: nothing of private policies, and of shared ones nothing that tells a single outcome.

The attacks here are a team's: it may send anything to every route, and it sees answers, not how long they took.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import text

from rollout_budget.outcomes import FloatArray
from services.kit import database
from services.prior_api import sharing
from services.prior_api.heads import GaussianProcess, Question
from services.prior_api.heads.base import Context
from services.prior_api.records import Cell, Policy, Public
from tests.prior_api.conftest import TEAM_B, Serve
from tests.prior_api.fakes import WIDTH, FakeEncoder, embed

AS_B = {"Authorization": f"Bearer {TEAM_B}", "X-Request-Id": "of-b"}  # problems name it: chosen, it differs nowhere
COUNT = 2 * sharing.BLOCK
TEXTS = [f"word{place % 5} number{place}" for place in range(COUNT)]
PROMPTS = [{"key": f"p{place}", "text": name} for place, name in enumerate(TEXTS)]


def evidence(solved: Callable[[int], float], *, version: int = 3, **changes: Any) -> dict[str, Any]:
    rows = [
        {"id": f"r{place}", "key": f"p{place}", "version": version, "successes": solved(place), "trials": 4}
        for place in range(COUNT)
    ]
    return {"rows": rows, "prompts": PROMPTS, **changes}


def question(prompts: Sequence[dict[str, Any]] = PROMPTS, **changes: Any) -> dict[str, Any]:
    return {"policy": "m", "version": 3, "prompts": list(prompts), **changes}


async def everything_that_b_can_ask(client: httpx.AsyncClient) -> list[tuple[int, bytes]]:
    """Every route, with the names, keys, ids and texts that team a uses, known ones and wrong ones."""
    mine = evidence(lambda place: place % 3)
    calls: list[tuple[str, str, Any]] = [
        ("GET", "/v1/policies", None),
        ("GET", "/v1/policies/m", None),
        ("GET", "/v1/policies/secret", None),
        ("GET", "/v1/policies/nothing", None),
        ("POST", "/v1/values", question([{"key": "p1"}, {"key": "nothing"}])),
        ("POST", "/v1/prompts", {"prompts": PROMPTS[:3]}),
        ("POST", "/v1/prompts", {"prompts": [{"key": "p1", "text": "another text for a's key"}]}),
        ("POST", "/v1/prompts", {"prompts": [{"key": "fresh", "text": "another text"}, {"key": "p7"}]}),
        *(("POST", "/v1/values", question(model=model)) for model in ("gp", "history", "running_mean", "constant")),
        ("POST", "/v1/values", question(policy="secret")),
        ("POST", "/v1/policies/m/evidence", mine | {"rows": mine["rows"][:20]}),
        ("POST", "/v1/policies/m/evidence", mine | {"rows": mine["rows"][:20]}),
        ("POST", "/v1/policies/m/evidence", evidence(lambda _: 4.0)),
        ("POST", "/v1/policies/secret/evidence", mine | {"scope": "private"}),
        ("POST", "/v1/policies/m/evidence", {"rows": [{"id": "r1"}]}),
        ("POST", "/v1/values", question(version=4)),
        ("POST", "/v1/values", question(policy="secret")),
        ("GET", "/v1/policies", None),
        ("GET", "/v1/policies/m", None),
        ("GET", "/readyz", None),
        ("GET", "/livez", None),
        ("GET", "/openapi.json", None),
    ]
    answers = []
    for method, path, body in calls:
        answer = await client.request(method, path, json=body, headers=AS_B)
        answers.append((answer.status_code, answer.content))
    return answers


async def test_g14_private_data_of_others_moves_no_byte_of_any_answer(serve: Serve, tmp_path: Path) -> None:
    """Two worlds that differ only in what team a keeps private, the second with b's own names, keys, ids and texts."""
    worlds = []
    for world in ("without", "with", "other outcomes"):
        async with serve(database_url=f"sqlite:///{tmp_path / world}.db") as client:
            if world != "without":
                solved = (lambda _: 4.0) if world == "with" else (lambda _: 0.0)
                for policy in ("m", "secret"):
                    await client.post(f"/v1/policies/{policy}/evidence", json=evidence(solved))
                    await client.post("/v1/values", json=question(policy=policy))
            worlds.append(await everything_that_b_can_ask(client))
    assert worlds[0] == worlds[1] == worlds[2]
    assert {status for status, _ in worlds[0]} == {200, 404, 422}


async def test_g14_an_encoded_text_of_another_team_is_not_told(client: httpx.AsyncClient, encoder: FakeEncoder) -> None:
    """A text that team a has had encoded is as new to b as one that nobody sent, and so is its readiness."""
    while (await client.post("/v1/prompts", json={"prompts": PROMPTS[:1]})).json()["encoded"] == 0:
        pass
    encoder.gate.clear()
    probe = [{"key": "guess", "text": TEXTS[0]}, {"key": "other", "text": "nobody sent this"}]
    for _ in range(3):
        answer = (await client.post("/v1/prompts", json={"prompts": probe}, headers=AS_B)).json()
        assert answer["encoded"] == 0
    encoder.gate.set()


async def test_g14_metrics_and_problems_name_nothing_of_others(client: httpx.AsyncClient) -> None:
    """Neither a's keys and texts nor its policies stand in metrics, nor in what b is told when it guesses them."""
    await client.post("/v1/policies/secret/evidence", json=evidence(lambda _: 4.0, scope="shared"))
    answers = await everything_that_b_can_ask(client)
    mine = {b"p1", b"secret", b"p7"}
    told = (await client.get("/metrics", headers=AS_B)).content
    assert not any(word in told for word in (*mine, TEXTS[1].encode()))
    unknown = [body for status, body in answers[:5] if status == 404]
    assert (
        len({body.replace(b"secret", b"X").replace(b"nothing", b"X").replace(b"'m'", b"'X'") for body in unknown}) == 1
    )


async def test_g14_what_crosses_is_the_noisy_number_alone(serve: Serve, tmp_path: Path) -> None:
    """With a's outcomes replaced in every table but the noisy column, b's answers stay the same to the byte."""
    url = f"sqlite:///{tmp_path / 'crossing.db'}"
    async with serve(database_url=url) as client:
        await client.post("/v1/policies/open/evidence", json=evidence(lambda place: place % 5, scope="shared"))
        before = (await client.post("/v1/values", json=question(), headers=AS_B)).content
        own = (await client.post("/v1/values", json=question(policy="open"))).json()["values"]
    engine = database.connect(url)
    async with engine.begin() as connection:
        for statement in (
            "UPDATE prior_rows SET successes = trials - successes WHERE team = 'a'",
            "UPDATE prior_cells SET successes = trials - successes WHERE team = 'a'",
            "UPDATE prior_versions SET successes = 0, rates = 0, squared_rates = 0, within = 0 WHERE team = 'a'",
            "UPDATE prior_histories SET recent = x'' WHERE team = 'a'",
            "DELETE FROM prior_given WHERE team = 'a'",
        ):
            await connection.execute(text(statement))
    await engine.dispose()
    async with serve(database_url=url) as client:
        after = (await client.post("/v1/values", json=question(), headers=AS_B)).content
        assert (await client.post("/v1/values", json=question(policy="open"))).json()["values"] != own
    assert after == before


async def test_shared_rows_cross_in_blocks(client: httpx.AsyncClient) -> None:
    """Rows short of a block change nothing for others: neither value nor error nor count tells that one came."""
    body = evidence(lambda _: 4.0, scope="shared")
    seen = []
    for count in (sharing.BLOCK, sharing.BLOCK + 1, COUNT - 1, COUNT):
        await client.post("/v1/policies/open/evidence", json=body | {"rows": body["rows"][:count]})
        seen.append((await client.post("/v1/values", json=question(), headers=AS_B)).json())
    assert seen[0] == seen[1] == seen[2]
    assert [answer["evidence_version"] for answer in seen] == [sharing.BLOCK] * 3 + [COUNT]
    assert seen[2]["values"] != seen[3]["values"]
    assert all(line["evidence_count"] == 0 for line in seen[3]["values"])


@pytest.mark.parametrize("epsilon", [0.25, 1.0, 4.0])
def test_noise_has_the_law_that_the_bound_rests_on(epsilon: float) -> None:
    """Each further success is e^-epsilon times as likely, both ways, and the stated variance is the real one."""
    noise = np.array([sharing.noisy(3.0, epsilon) - 3.0 for _ in range(40_000)])
    assert noise.var() == pytest.approx(sharing.variance(epsilon), rel=0.08)
    assert abs(noise.mean()) < 5 * noise.std() / 200
    for side in (noise, -noise):
        first, second = ((side > low) & (side <= low + 1) for low in (0, 1))
        ratio = second.sum() / first.sum()
        assert ratio == pytest.approx(math.exp(-epsilon), abs=6 * math.sqrt(ratio / first.sum()))
    assert set(np.round(noise * sharing.GRID) / sharing.GRID) == set(noise)


def bound(epsilon: float) -> float:
    """Return the best share of right guesses of one outcome from even odds."""
    return math.exp(epsilon) / (1 + math.exp(epsilon))


def attacked(solved: float, epsilon: float | None) -> FloatArray:
    """Return what another team sees of the prompt whose single outcome it is after, knowing all else.

    Everything that it is told of the prompt's own text, by the very code that turns shared rows into values.
    """
    owner = Policy("a", "open", "shared", sharing.BLOCK)
    cells: list[Cell] = []
    for place in range(sharing.BLOCK):
        exact, trials = (solved, 1) if place == 0 else (float(place % 2) * 2, 2)
        public = exact if epsilon is None else sharing.noisy(exact, epsilon)
        blur = 0.0 if epsilon is None else sharing.variance(epsilon)
        cells.append(sharing.foreign(owner, Public(3, f"h{place}", trials, public, blur, place + 1)))
    features = {str(cell.text_hash): embed(TEXTS[int(cell.key) - 1]) for cell in cells} | {"guess": embed(TEXTS[0])}
    fit = GaussianProcess(WIDTH).fit(Context(cells, features))
    seen = fit.values(Question(("b", "m"), 3, ["guess"], features, [[]], []))
    return np.array([seen.values[0], seen.standard_errors[0]])


@pytest.mark.parametrize(("epsilon", "trials"), [(None, 20), (1.0, 300)])
def test_one_outcome_cannot_be_read_from_values(epsilon: float | None, trials: int) -> None:
    """A threshold, learned on one half of the worlds and tried on the other, guesses no better than the stated bound.

    Without noise the same attack is right every time, so it is not the attack that is weak.
    """
    source = np.random.default_rng(5)
    outcomes = source.integers(0, 2, 2 * trials)
    values = np.array([attacked(float(outcome), epsilon)[0] for outcome in outcomes])
    known, unknown = slice(0, trials), slice(trials, None)
    edges = np.sort(values[known])
    threshold = max(edges, key=lambda edge: float(((values[known] >= edge) == outcomes[known]).mean()))
    right = float(((values[unknown] >= threshold) == outcomes[unknown]).mean())
    if epsilon is None:
        assert right == 1.0
    else:
        assert right <= bound(epsilon) + 3 * math.sqrt(bound(epsilon) * (1 - bound(epsilon)) / trials)


def test_the_best_guess_from_the_number_itself_meets_the_bound() -> None:
    """Even who saw the noisy number, of which values are functions, would be right no more often than is stated."""
    source = np.random.default_rng(6)
    outcomes = source.integers(0, 2, 20_000)
    numbers = np.array([sharing.noisy(float(outcome), sharing.EPSILON) for outcome in outcomes])
    right = float(((numbers > 0.5) == outcomes).mean())
    assert 0.6 < right <= bound(sharing.EPSILON) + 0.01
