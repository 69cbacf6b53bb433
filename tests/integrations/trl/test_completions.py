"""The worker's requests to a real vLLM server."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from rollout_budget.integrations.trl.completions import Completions, GenerationFailed
from tests.trainer.policies import export_adapter
from tests.vllm_server import VllmSession
from trainer.servers import ServerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

PROMPT = [2, 10, 20, 30]


def client(url: str, model: str = "policy") -> Completions:
    return Completions(url, timeout_s=60.0, settings={"model": model, "max_tokens": 6, "temperature": 1.0})


async def test_completions_of_a_wave_differ_and_have_a_log_probability_per_token(vllm: ServerProcess) -> None:
    async with client(vllm.url) as completions:
        drawn = await completions.draw(PROMPT, 5)
    assert len(drawn) == 5
    assert len({tuple(one.ids) for one in drawn}) > 1
    for one in drawn:
        assert len(one.ids) == len(one.log_probs) <= 6
        assert all(value <= 0.0 for value in one.log_probs)
        assert one.cut is (len(one.ids) == 6 and one.ids[-1] != 1)


async def test_what_the_server_refuses_is_said_at_once(vllm: ServerProcess) -> None:
    async with client(vllm.url, "another") as completions:
        with pytest.raises(GenerationFailed, match=r"404 .*another"):
            await completions.draw(PROMPT, 1)


async def test_a_server_that_has_adapters_of_trl_is_refused(
    vllm: ServerProcess, vllm_session: VllmSession, tmp_path: Path
) -> None:
    """Requests for the model would be answered by the policy as it was before training."""
    adapter, _ = export_adapter(tmp_path, 1, vllm_session.model, seed=1)
    named = {"lora_name": "trl-policy-v1"}
    async with httpx.AsyncClient(base_url=vllm.url) as http:
        (await http.post("/v1/load_lora_adapter", json={**named, "lora_path": str(adapter)})).raise_for_status()
        try:
            with pytest.raises(GenerationFailed, match="without --enable-lora"):
                await client(vllm.url).__aenter__()
        finally:
            (await http.post("/v1/unload_lora_adapter", json=named)).raise_for_status()
