"""Which head answers, what the service says about its models, and what it refuses to start with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.prior_api.app import create_app
from services.prior_api.settings import Settings
from tests.paths import ROOT
from tests.prior_api.conftest import Serve
from tests.prior_api.fakes import FakeEncoder
from tests.prior_api.tiny_models import save_bert, save_qwen3, save_v0

ROWS = [{"id": f"r{i}", "key": f"p{i}", "version": 1, "successes": i % 5, "trials": 4} for i in range(20)]
PROMPTS = [{"key": f"p{i}", "text": f"w{i} w{i % 3}"} for i in range(20)]


async def told(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/policies/m/evidence", json={"rows": ROWS, "prompts": PROMPTS})
    assert answer.status_code == 200


async def asked(client: httpx.AsyncClient, model: str) -> dict[str, Any]:
    body = {"policy": "m", "version": 1, "prompts": [{"key": "p1"}, {"key": "new", "text": "w1 w9"}], "model": model}
    answer: dict[str, Any] = (await client.post("/v1/values", json=body)).json()
    return answer


async def test_a_head_that_is_not_run_is_stood_in_for_by_the_first_that_is(client: httpx.AsyncClient) -> None:
    """The values are the running head's, and the answer says whose and why."""
    await told(client)
    stand_in, own = await asked(client, "tabpfn"), await asked(client, "gp")
    assert (stand_in["model"], stand_in["degraded"]) == ("gp", True)
    assert stand_in["detail"] == "this service runs gp, not tabpfn"
    assert stand_in["values"] == own["values"]
    assert (own["model"], own["degraded"]) == ("gp", False)


async def test_a_head_whose_weights_are_not_there_leaves_history_to_answer(serve: Serve, tmp_path: Path) -> None:
    """Beside it the Gaussian process goes on; the reason names what is missing."""
    (tmp_path / "weights").mkdir()
    async with serve(heads=["tabicl", "gp"], tabicl_weights=str(tmp_path / "weights")) as client:
        await told(client)
        broken, process, control = [await asked(client, model) for model in ("tabicl", "gp", "history")]
        assert (broken["model"], broken["degraded"]) == ("history", True)
        assert broken["detail"].startswith("no answer from tabicl: ")
        assert broken["values"] == control["values"]
        assert (process["model"], process["degraded"]) == ("gp", False)


async def test_the_list_of_policies_states_models_and_their_terms(serve: Serve, tmp_path: Path) -> None:
    """Encoder first, then heads in the order of the settings."""
    weights = tmp_path / "tabpfn-v2.5-classifier-v2.5_default.ckpt"
    weights.write_bytes(b"")
    changes = {"heads": ["gp", "tabicl", "tabpfn"], "tabpfn_weights": str(weights), "accept_licences": ["tabpfn-2.5"]}
    async with serve(**changes) as client:
        model = (await client.get("/v1/policies")).json()["model"]
    assert model["encoder"] == {"name": "fake", "licence": "mit", "source": "this test", "commercial_use": True}
    assert [(head["name"], head["commercial_use"]) for head in model["heads"]] == [
        ("gp", True),
        ("tabicl", True),
        ("tabpfn-2.5", False),
    ]
    assert all(head["licence"] and head["source"] for head in model["heads"])


async def test_models_are_announced_at_start_up_and_loudly_where_they_are_not_free(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line for each part."""
    weights = tmp_path / "tabpfn-v2.5-classifier-v2.5_default.ckpt"
    weights.write_bytes(b"")
    async with serve(heads=["gp", "tabpfn"], tabpfn_weights=str(weights), accept_licences=["tabpfn-2.5"]):
        pass
    captured = capsys.readouterr()
    lines = [line for line in (captured.out + captured.err).splitlines() if "licence" in line]
    assert [next(name for name in ("fake", "gp", "tabpfn-2.5") if name in line) for line in lines] == [
        "fake",
        "gp",
        "tabpfn-2.5",
    ]
    assert ["NOT FOR COMMERCIAL USE" in line for line in lines] == [False, False, True]


def test_weights_that_are_not_free_need_leave_by_name(tmp_path: Path) -> None:
    """The error says which, on what terms, and what to set; another name's leave does not count."""
    for accepted in ([], ["tabpfn-3"]):
        settings = Settings(data=tmp_path, device="cpu", heads=["tabpfn"], accept_licences=accepted)
        with pytest.raises(ValueError, match=r'tabpfn-2\.5.*ROLLOUT_BUDGET_PRIOR_ACCEPT_LICENCES=.*"tabpfn-2\.5"'):
            create_app(settings, encoder=FakeEncoder())
    create_app(
        Settings(data=tmp_path, device="cpu", heads=["tabpfn"], accept_licences=["tabpfn-2.5"]), encoder=FakeEncoder()
    )


@pytest.mark.services
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"HEADS": '["tabpfn"]'}, b"not for commercial use: tabpfn-2.5"),
        ({"ENCODER": "hf:/no/such/folder"}, b"no such folder"),
        ({"ENCODER": "word2vec"}, b"encoder: "),
        ({"HEADS": '["tabpfn"]', "TABPFN_WEIGHTS": "/no/such"}, b"no such file or folder"),
    ],
    ids=["licence", "folder", "kind", "weights"],
)
def test_what_cannot_start_says_so_in_one_line(tmp_path: Path, settings: dict[str, str], message: bytes) -> None:
    """Exit code 2, no traceback."""
    environment = {f"ROLLOUT_BUDGET_PRIOR_{name}": value for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "-m", "services.prior_api"],
        cwd=ROOT,
        env=os.environ
        | environment
        | {"ROLLOUT_BUDGET_PRIOR_DATA": str(tmp_path), "ROLLOUT_BUDGET_PRIOR_DEVICE": "cpu"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("kind", ["hf", "v0"])
async def test_values_come_through_any_encoder_of_the_settings(tmp_path: Path, kind: str) -> None:
    """From texts over features to the Gaussian process, with features of length 1 and with V0's, which are not."""
    folder = tmp_path / "model"
    if kind == "hf":
        save_bert(folder)
    else:
        save_v0(folder / "v_0_for_grpo_training.pt", save_qwen3(folder))
    settings = Settings(
        data=tmp_path,
        device="cpu",
        keys={"a": "key-of-team-a-0123456789"},
        encoder=f"{kind}:{folder}",
        encoder_backbone=str(folder),
        encode_wait_s=60,
    )
    app = create_app(settings)
    headers = {"Authorization": "Bearer key-of-team-a-0123456789"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://prior", headers=headers) as client,
    ):
        await told(client)
        answer = await asked(client, "gp")
        assert (answer["model"], answer["detail"]) == ("gp", "")
        assert len({value["value"] for value in answer["values"]}) == 2


async def test_an_encoder_that_does_not_load_shows_why(tmp_path: Path) -> None:
    """Its configuration is there, its weights are not: the service runs, and readiness gives the reason."""
    folder = tmp_path / "model"
    save_bert(folder)
    (folder / "model.safetensors").unlink()
    settings = Settings(data=tmp_path, device="cpu", keys={"a": "k" * 16}, encoder=f"hf:{folder}", encode_wait_s=60)
    app = create_app(settings)
    headers = {"Authorization": f"Bearer {'k' * 16}"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://prior", headers=headers) as client,
    ):
        answer = await asked(client, "gp")  # waits until the encoder has failed
        assert answer["degraded"]
        for said in (answer["detail"], (await client.get("/readyz")).text):
            assert "did not load" in said
            assert str(folder) in said
