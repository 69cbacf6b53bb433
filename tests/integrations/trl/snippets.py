"""Runs the scripts of docs/integrations/trl.md as printed: `python -m tests.integrations.trl.snippets VLLM_URL`.

Runs in TRL's own environment, in a folder that holds the test policy as `policy`, the name under which vLLM serves it.
Before, TRL is taught to do without a GPU and to stop after a few steps.
"""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import Any

import trl
from trl.experimental import async_grpo

from tests.integrations.trl import on_cpu
from tests.integrations.trl.train_async import FolderWeights

ROOT = Path(__file__).resolve().parents[3]
STEPS = 2
SMALL = {
    "max_steps": STEPS,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": [],
    "save_strategy": "no",
    "logging_steps": 1,
}


def scripts() -> list[str]:
    """Return the Python blocks of the page, with the test policy for its model."""
    page = (ROOT / "docs" / "integrations" / "trl.md").read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return [block.replace("Qwen/Qwen3-0.6B", "policy") for block in blocks]


def small(config: Any, **more: Any) -> Any:
    """Return a configuration whose settings for a small run win over those of the script."""

    def make(*args: Any, **given: Any) -> Any:
        return config(*args, **{**given, **SMALL, **more})

    return make


def main(url: str) -> None:
    on_cpu.install()
    async_grpo.AsyncGRPOConfig = small(async_grpo.AsyncGRPOConfig, vllm_server_base_url=url, token_budget=-1)
    async_grpo.AsyncGRPOTrainer = functools.partial(
        async_grpo.AsyncGRPOTrainer, weight_transfer=FolderWeights(url, Path("weights"))
    )
    trl.GRPOConfig = small(trl.GRPOConfig)
    for script in scripts():
        names: dict[str, Any] = {}
        exec(compile(script, "trl.md", "exec"), names)  # noqa: S102 - the very text under test
        print(f"steps {names['trainer'].state.global_step}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
