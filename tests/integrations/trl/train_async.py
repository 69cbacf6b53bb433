"""Runs TRL's asynchronous GRPO trainer with our worker: `python -m tests.integrations.trl.train_async SETTINGS.json`.

Runs in TRL's own environment; writes what TRL itself counted to the file that SETTINGS names.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer
from trl.experimental.async_grpo.vllm_client import VLLMClient

import rollout_budget as rb
from rollout_budget.integrations.trl import BudgetedRolloutWorker
from tests.integrations.trl import on_cpu, task
from trainer.weights.exports import export_directory


class FolderWeights:
    """TRL's `WeightTransferProtocol` by a folder that both sides can read, since NCCL needs GPUs."""

    def __init__(self, url: str, folder: Path) -> None:
        self._vllm = VLLMClient(url)
        self._folder = folder
        self._sent = 0

    def init_weight_transfer(self) -> None:
        self._vllm.wait_for_server_ready()

    def pause(self) -> None:
        self._vllm.pause()

    def send_weights(self, iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
        self._sent += 1
        with export_directory(self._folder, self._sent) as directory:
            save_file({name: tensor.contiguous() for name, tensor in iterator}, directory / "model.safetensors")
        self._vllm.start_weight_update()
        self._vllm.update_weights({"path": str((self._folder / f"v{self._sent}").absolute())})
        self._vllm.finish_weight_update()

    def resume(self) -> None:
        self._vllm.resume()

    def destroy(self) -> None:
        self.__dict__.clear()


class Counting(AsyncGRPOTrainer):  # type: ignore[misc] # TRL lives in another environment
    """Keeps what TRL puts into its log, before it takes the mean of it."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.kept: defaultdict[str, list[Any]] = defaultdict(list)

    def keep(self) -> None:
        for name, values in self._metrics["train"].items():
            self.kept[name] += values

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.keep()
        super().log(logs, start_time)


def main(settings: dict[str, Any]) -> dict[str, Any]:
    on_cpu.install()
    out = Path(settings["out"])
    args = AsyncGRPOConfig(
        output_dir=str(out),
        max_steps=settings["steps"],
        per_device_train_batch_size=1,
        gradient_accumulation_steps=settings["per_step"],
        token_budget=-1,
        learning_rate=1e-3,
        max_completion_length=4,
        vllm_server_base_url=settings["vllm"],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    notices: list[str] = []
    worker = BudgetedRolloutWorker(
        rb.AsyncSession(
            settings["run"],
            notify=lambda notice: notices.append(f"{notice.kind}: {notice.detail}"),
            **settings["rules"],
        ),
        model="policy",
        args=args,
        train_dataset=task.rows(),
        reward_funcs=[task.correct, task.brief],
        outcome="correct",
        processing_class=settings["tokenizer"],
        prompts_at_once=4,
        patience_s=settings.get("patience_s", 60.0),
    )
    trainer = Counting(
        settings["model"],
        args=args,
        train_dataset=task.rows(),
        rollout_worker=worker,
        weight_transfer=FolderWeights(settings["vllm"], out / "weights"),
        callbacks=[worker],
    )
    trainer.train()
    trainer.keep()
    left = list(worker.rollout_buffer.queue)
    return {
        "steps": trainer.state.global_step,
        "log": trainer.state.log_history,
        "taken": len(trainer.kept["sample/staleness_mean"]),
        "dropped": len(trainer.kept["sample/dropped_stale_total"]),
        "rewards": trainer.kept["rewards/correct"]
        + [sample.metrics["rewards/correct"] for sample in left if sample.metrics],
        "left": len(left),
        "waiting": [
            {"group": sample.group_id, "version": sample.model_version, "advantage": sample.advantage}
            for sample in left
        ],
        "notices": notices,
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    given = json.loads(Path(sys.argv[1]).read_text())
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    done = main({**given, "tokenizer": tokenizer})
    Path(given["report"]).write_text(json.dumps(done))
