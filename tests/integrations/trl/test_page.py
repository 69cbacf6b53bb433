"""What docs/integrations/trl.md says can be copied and run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import rollout_budget as rb
from tests.integrations.conftest import Service
from tests.integrations.trl.running import LIMIT_S, environment, python
from tests.paths import ROOT
from tests.vllm_server import VllmSession
from trainer.servers import ServerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.services, pytest.mark.timeout(300)]


def test_both_scripts_train_as_printed(
    vllm: ServerProcess, vllm_session: VllmSession, service: Service, tmp_path: Path
) -> None:
    """Each makes its steps, on the allocator that the environment names, whose ledger has both runs."""
    (tmp_path / "policy").symlink_to(vllm_session.model)
    named = {"ROLLOUT_BUDGET_URL": service.url, "ROLLOUT_BUDGET_KEY": service.key, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(python()), "-m", "tests.integrations.trl.snippets", vllm.url],
        cwd=tmp_path,
        env={**environment(), **named},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("steps 2\n") == 2
    with rb.SyncAllocatorClient(service.url, service.key) as client:
        used = {name: client.get_run(name).usage for name in ("my-async-run", "my-run")}
    assert used["my-async-run"].committed >= 2 * 16
    assert used["my-run"].committed == 2 * 16
    assert [usage.overage for usage in used.values()] == [0, 0]
