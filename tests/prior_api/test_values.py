"""Values over HTTP: order of evidence, refits, fallbacks, and the score of values given before."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from services.prior_api.context import parts, share
from services.prior_api.heads import GaussianProcess
from services.prior_api.heads.base import Context
from services.prior_api.heads.gp import GaussianProcessFit
from services.prior_api.records import Policy
from services.prior_api.sharing import BLOCK
from tests.prior_api.conftest import TEAM_B, Serve

PROMPTS = [{"key": f"p{i}", "text": f"word{i % 5} number{i}"} for i in range(40)]


def rows(version: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"{version}-{i}", "key": f"p{i}", "version": version, "successes": (i + version) % 5, "trials": 4}
        for i in range(start, 40)
    ]


async def ask(client: httpx.AsyncClient, version: int = 3, **changes: Any) -> dict[str, Any]:
    body = {"policy": "m", "version": version, "prompts": PROMPTS} | changes
    answer: dict[str, Any] = (await client.post("/v1/values", json=body)).json()
    return answer


async def feed(client: httpx.AsyncClient, batch: list[dict[str, Any]], policy: str = "m") -> None:
    answer = await client.post(f"/v1/policies/{policy}/evidence", json={"rows": batch, "prompts": PROMPTS})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("model", "rounding"), [("gp", 0.0), ("history", 1e-14), ("running_mean", 1e-14)])
async def test_values_do_not_depend_on_the_order_of_receipt(
    serve: Serve, tmp_path: Path, model: str, rounding: float
) -> None:
    """Orders, batches and repeats change no bit of the process, and of the controls only their sums' rounding."""
    answers = []
    for seed in range(3):
        shuffler = random.Random(seed)  # noqa: S311  a shuffle that can be repeated
        evidence = [row for version in range(4) for row in rows(version)]
        shuffler.shuffle(evidence)
        async with serve(database_url=f"sqlite:///{tmp_path / f'{seed}.db'}") as client:
            while evidence:
                size = shuffler.randint(1, 60)
                await feed(client, evidence[:size])
                await feed(client, evidence[: size // 2] or evidence[:1])
                evidence = evidence[size:]
                if seed == 1:
                    await ask(client, model=model)
            answers.append(await ask(client, model=model))
    first, *others = [
        [(line["value"], line["standard_error"], line["evidence_count"]) for line in answer["values"]]
        for answer in answers
    ]
    for other in others:
        assert np.abs(np.subtract(first, other)).max() <= rounding


def columns(answer: dict[str, Any]) -> list[tuple[float, float]]:
    return [(line["value"], line["standard_error"]) for line in answer["values"]]


async def test_answers_name_the_evidence_that_they_rest_on(serve: Serve) -> None:
    """Within the interval between refits new rows are appended; what comes out is near what a fit on all rows says."""
    async with serve(refit_interval_s=3600.0) as client:
        await feed(client, rows(0))
        first = await ask(client)
        await feed(client, rows(1))
        second = await ask(client)
        assert (first["evidence_version"], second["evidence_version"]) == (40, 80)
    async with serve() as client:
        whole = await ask(client)
    assert whole["evidence_version"] == 80
    moved, rest = (np.abs(np.subtract(columns(answer), columns(whole))).mean() for answer in (first, second))
    assert rest < moved / 2


async def test_a_head_that_cannot_append_answers_from_its_last_fit(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the answer says which evidence it rests on, and a refit is due after one interval."""
    monkeypatch.delattr(GaussianProcessFit, "grown")
    async with serve(refit_interval_s=3600.0) as client:
        await feed(client, rows(0))
        first = await ask(client)
        await feed(client, rows(1))
        second = await ask(client)
    assert first["evidence_version"] == second["evidence_version"] == 40
    assert columns(first) == columns(second)


async def test_a_slow_refit_does_not_hold_an_answer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a refit takes its time the older fit answers, with the new rows appended; when it is done, it answers."""
    gate = threading.Event()
    fit = GaussianProcess.fit
    async with serve(refit_wait_s=0.0) as client:
        await feed(client, rows(0))
        await ask(client)
        monkeypatch.setattr(GaussianProcess, "fit", lambda self, context: fit(self, context) if gate.wait(30) else None)
        await feed(client, rows(1))
        appended = await ask(client)
        assert appended["evidence_version"] == 80
        gate.set()
        while columns(await ask(client)) == columns(appended):
            pass
    async with serve(refit_wait_s=30.0) as client:
        expected = columns(await ask(client))
    async with serve(refit_wait_s=0.0) as client:
        assert columns(await ask(client)) == expected


async def test_one_refit_per_evidence_version(client: httpx.AsyncClient) -> None:
    """Questions without new evidence between them share a fit."""
    await feed(client, rows(0))
    for version in range(5):
        await ask(client, version)
    assert "rollout_budget_prior_refit_seconds_count 1.0" in (await client.get("/metrics")).text


async def test_rows_beyond_the_bound_leave_the_newest(serve: Serve, tmp_path: Path) -> None:
    """With room for 40 rows, 40 older ones change nothing for others, and on the whole sharpen those of their own."""
    answers = []
    old = [row | {"key": f"p{i % 8}"} for i, row in enumerate(rows(0))]
    elsewhere = [row | {"key": f"old{i}"} for i, row in enumerate(rows(0))]
    for name, evidence in (("new", rows(5)), ("elsewhere", elsewhere + rows(5)), ("own", old + rows(5))):
        async with serve(max_rows=40, database_url=f"sqlite:///{tmp_path / name}.db") as client:
            await feed(client, evidence)
            lines = (await ask(client, 5))["values"]
            answers.append([(line["value"], line["standard_error"]) for line in lines])
    new, other, own = answers
    assert new == other
    assert all(value != other for value, other in zip(own[:8], new[:8], strict=True))
    assert sum(sharp for _, sharp in own[:8]) < sum(plain for _, plain in new[:8])
    assert own[8:] == new[8:]


def test_rows_are_shared_out_among_policies() -> None:
    """Small policies keep all their rows, large ones share the rest, and no row of the bound is lost."""
    policies = [Policy("t", name, "private", count) for name, count in (("a", 10), ("b", 500), ("c", 5000))]
    assert {policy.policy: part for policy, part in share(policies, 1000)} == {"a": 10, "b": 495, "c": 495}
    assert {policy.policy: part for policy, part in share(policies, 2000)} == {"a": 10, "b": 500, "c": 1490}
    assert share([], 1000) == []


async def test_keys_without_text_are_judged_by_identity(client: httpx.AsyncClient) -> None:
    """A key without text is answered, not refused; its own evidence counts; the answer is degraded and says why."""
    solved = [{"id": f"s{i}", "key": "textless", "version": 3, "successes": 4, "trials": 4} for i in range(4)]
    await feed(client, rows(3) + solved)
    answer = await ask(client, prompts=[*PROMPTS[:2], {"key": "textless"}, {"key": "unknown"}])
    assert answer["degraded"]
    assert answer["model"] == "gp"
    assert "2 of 4 prompts have no text" in answer["detail"]
    known, unknown = answer["values"][2:]
    assert known["value"] > unknown["value"] + 0.1
    assert (known["evidence_count"], unknown["evidence_count"]) == (4, 0)


async def test_without_a_fit_history_answers(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the Gaussian process has no fit, the answer is the history control's, degraded, with the reason."""

    def refuse(_self: GaussianProcess, _context: Context) -> None:
        raise ArithmeticError("singular")

    monkeypatch.setattr(GaussianProcess, "fit", refuse)
    await feed(client, rows(3))
    answer = await ask(client)
    for answer in await asyncio.gather(*(ask(client) for _ in range(4))):
        assert answer["model"] == "history"
    expected = await ask(client, model="history")
    assert (answer["model"], answer["degraded"]) == ("history", True)
    assert "singular" in answer["detail"]
    assert answer["values"] == expected["values"]


async def test_repeated_keys_in_a_question_get_the_same_value(client: httpx.AsyncClient) -> None:
    """Two groups of one prompt may ask together."""
    await feed(client, rows(3))
    answer = await ask(client, prompts=[PROMPTS[0], PROMPTS[1], PROMPTS[0]])
    assert answer["values"][0] == answer["values"][2]


async def test_quality_scores_values_given_before_their_evidence(client: httpx.AsyncClient) -> None:
    """Only rows that came after a value for their key and version count, and only by that version."""
    await feed(client, rows(1))
    await ask(client, 2, prompts=PROMPTS[:10], model="constant")
    await feed(client, rows(2))
    view = (await client.get("/v1/policies/m")).json()
    assert [(line["version"], line["rows"], line["trials"], line["predicted"]) for line in view["versions"]] == [
        (1, 40, 160, 0),
        (2, 40, 160, 10),
    ]
    rates = [row["successes"] / 4 for row in rows(2)]
    noise = sum(rate * (1 - rate) * 4 / 3 for rate in rates) / 40 / 4
    expected = sum((rate - 0.5) ** 2 for rate in rates[:10]) / 10 - noise
    scored = view["versions"][1]
    assert scored["squared_error"] == pytest.approx(expected)
    assert scored["calibration_error"] == pytest.approx(abs(0.5 - sum(rates[:10]) / 10))
    assert view["rows"] == 80
    listed = (await client.get("/v1/policies")).json()["policies"]
    assert [(policy["policy"], policy["versions"]) for policy in listed] == [("m", [scored])]


def test_own_policies_come_before_shared_ones() -> None:
    """Half of the room is theirs if they need it, all of it if others do not; what they leave goes to others."""
    own, other = Policy("t", "own", "private", 5000), Policy("u", "open", "shared", 5000)
    small, few = Policy("t", "small", "private", 100), Policy("u", "few", "shared", 64)
    assert parts("t", [own, other], 1000) == [(own, 500), (other, 500)]
    assert parts("t", [own, few], 1000) == [(own, 936), (few, 64)]
    assert parts("t", [small, other], 1000) == [(small, 100), (other, 900)]
    assert parts("t", [other], 1000) == [(other, 1000)]


async def test_shared_rows_of_others_are_appended_too(serve: Serve) -> None:
    """Within the interval between fits a block that another team shares reaches the next answer."""
    as_b = {"Authorization": f"Bearer {TEAM_B}"}
    async with serve(refit_interval_s=3600.0) as client:
        await feed(client, rows(0))
        first = await ask(client)
        body = {"rows": rows(1)[:BLOCK], "prompts": PROMPTS, "scope": "shared"}
        assert (await client.post("/v1/policies/open/evidence", json=body, headers=as_b)).status_code == 200
        second = await ask(client)
    assert (first["evidence_version"], second["evidence_version"]) == (40, 40 + BLOCK)
    assert columns(first) != columns(second)


async def test_fractional_outcomes_add_up_alike_in_any_order(serve: Serve, tmp_path: Path) -> None:
    """Sums of tenths and thirds, which doubles cannot add exactly, still come out the same to the bit."""
    evidence = [
        row | {"id": f"{row['id']}-{part}", "successes": (row["successes"] + part) / 10.7}
        for row in rows(1)
        for part in range(3)
    ]
    answers = []
    for name, order in (("there", evidence), ("back", evidence[::-1])):
        async with serve(database_url=f"sqlite:///{tmp_path / name}.db") as client:
            for start in range(0, len(order), 17):
                await feed(client, order[start : start + 17])
            answers.append(columns(await ask(client)))
    assert answers[0] == answers[1]
