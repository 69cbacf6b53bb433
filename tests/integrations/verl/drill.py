"""Steps of verl's own trainer without a GPU: `python -m tests.integrations.verl.drill SETTINGS.json`, in `.venv-hooks`.

Ray, TransferQueue, agent-loop manager and worker, reward loop, replay buffer, padding, advantages and log are verl's
own, running; so is every one of our parts. In place of a language model stands a client that answers random tokens,
and in place of the trainer's constructor, which wants GPUs, an object with the fields that its methods read.

After each step it prints a line, and goes on when it is given one.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
import torch
import transfer_queue as tq
import verl
from hydra import compose, initialize_config_dir
from tensordict import TensorDict
from transformers import AutoTokenizer
from verl.experimental.reward_loop import RewardLoopManager
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.import_utils import load_class_from_fqn
from verl.utils.tracking import Tracking
from verl.workers.rollout.replica import TokenOutput

from tests.integrations.verl.drill_names import PROMPTS, STEPS

MULTIPLE, EOS = 16, 1


class Generation:
    """Answers a few random characters; to a prompt with an exclamation mark, fails once."""

    def __init__(self) -> None:
        self.failed = False

    async def generate(self, *, prompt_ids: list[int], **_: Any) -> TokenOutput:
        await asyncio.sleep(0)
        if not self.failed and "!" in self.tokenizer.decode(prompt_ids):
            self.failed = True
            raise ConnectionError("the server went away")
        ids = random.choices(range(4, 99), k=random.randint(1, 4))  # noqa: S311 - no secret
        return TokenOutput(token_ids=[*ids, EOS], log_probs=[-1.0] * (len(ids) + 1), extra_fields=dict(self.versions))

    versions = {"min_global_steps": 0, "max_global_steps": 0}  # noqa: RUF012 - never changed
    tokenizer: Any = None


def configuration(settings: dict[str, Any]) -> Any:
    """Return verl's own configuration with the page's lines and what makes it small."""
    folder = str(Path(verl.__file__).parent / "trainer" / "config")
    small = [
        f"actor_rollout_ref.model.path={settings['model']}",
        "actor_rollout_ref.rollout.name=vllm",
        "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.rollout.calculate_log_probs=True",
        "actor_rollout_ref.rollout.agent.num_workers=1",
        "actor_rollout_ref.rollout.prompt_length=64",
        "actor_rollout_ref.rollout.response_length=8",
        "reward.num_workers=1",
        f"reward.custom_reward_function.path={settings['scoring']}",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
        "trainer.logger=[file]",
    ]
    with initialize_config_dir(config_dir=folder, version_base=None):
        return compose("ppo_trainer", overrides=[*small, *settings["lines"]])


class Steps:
    """A trainer's state and its methods: those that run without GPUs."""

    def __init__(self, config: Any) -> None:
        rewards = RewardLoopManager(config)  # its process starts while the queue's do
        tq.init(config.transfer_queue)
        manager = load_class_from_fqn(config.actor_rollout_ref.rollout.agent.agent_loop_manager_class)
        client = Generation()
        loop = manager.create(
            config=config,
            llm_client=client,
            teacher_client=None,
            reward_loop_worker_handles=rewards.reward_loop_worker_handles,
        )
        self.rewards = rewards
        self.trainer = SimpleNamespace(
            config=config, trainer_mode="sync", global_steps=0, agent_loop_manager=loop, kl_ctrl_in_reward=None
        )
        self.buffer = ReplayBuffer("sync", config.trainer, None, "drop", config.trainer.v1.sampler, poll_interval=0.05)
        self.log = Tracking("verl", "drill", ["file"])

    def batch(self, marks: str = "") -> Any:
        """Return prompts as the trainer's data loader makes them."""
        count = PROMPTS
        shares = [round(0.1 + 0.8 * place / (count - 1), 3) for place in range(count)]
        columns = {
            "raw_prompt": [[{"role": "user", "content": f"item {place}{marks}"}] for place in range(count)],
            "data_source": ["drill"] * count,
            "extra_info": [{"index": place, "split": "train"} for place in range(count)],
            "index": list(range(count)),
            "reward_model": [{"ground_truth": str(share)} for share in shares],
            "dummy_tensor": torch.zeros(count, 1, dtype=torch.uint8),
            "uid": np.array([str(uuid.uuid4()) for _ in range(count)], dtype=object),
        }
        made = tu.get_tensordict(columns)
        tu.assign_non_tensor_data(made, "global_steps", self.trainer.global_steps)
        return made

    def step(self, batch: Any, *, forget: bool) -> dict[str, Any]:
        """Submit, sample, pad, compute advantages and log, all by verl's own methods; return every row.

        Where the books are to forget, they have been asked for these advantages before, as if by a trainer that ended.
        """
        PPOTrainer._submit_batch_to_rollout(self.trainer, batch)
        return self.learn(forget=forget)

    def again(self, batch: Any) -> dict[str, Any]:
        """Take a batch up as after a restart: its prompts are under way, but nobody draws."""
        self.trainer.trainer_mode = "colocate_async"
        quiet, self.trainer.agent_loop_manager = self.trainer.agent_loop_manager, SimpleNamespace()
        self.trainer.agent_loop_manager.generate_sequences = lambda _: None
        PPOTrainer._submit_batch_to_rollout(self.trainer, batch)
        self.trainer.agent_loop_manager = quiet
        assert PPOTrainer._reissue_inflight_prompts(self.trainer) == PROMPTS
        self.trainer.trainer_mode = "sync"
        return self.learn()

    def learn(self, *, forget: bool = False) -> dict[str, Any]:
        trainer = self.trainer
        meta, _ = self.buffer.sample(global_steps=trainer.global_steps, partition_id="train", batch_size=PROMPTS)
        if forget:
            drawn = {key.split("_")[0] for key in meta.keys}
            assert len(ray.get(trainer.agent_loop_manager.desk.advantages.remote(list(drawn)))) == PROMPTS
        meta = upsample_batch_to_divisible_size(meta, MULTIPLE, EOS)
        of_policy = tq.kv_batch_get(keys=meta.keys, partition_id="train", select_fields=["rollout_log_probs"])
        same = TensorDict({"old_log_probs": of_policy["rollout_log_probs"]}, batch_size=len(meta.keys))
        tq.kv_batch_put(keys=meta.keys, partition_id="train", fields=same)  # what the policy would say of them
        PPOTrainer._compute_advantage(trainer, meta, {})
        fields = ["uid", "rm_scores", "advantages", "returns", "response_mask"]
        data = tq.kv_batch_get(keys=meta.keys, partition_id="train", select_fields=fields)
        uids = list(data["uid"].tolist() if hasattr(data["uid"], "tolist") else data["uid"])
        rows = [
            {
                "key": key,
                "uid": uid,
                "padding": bool(tag.get("is_padding", False)),
                "reward": float(data["rm_scores"][place].sum()),
                "advantages": data["advantages"][place].tolist(),
                "equal": bool((data["advantages"][place] == data["returns"][place]).all()),
                "mask": data["response_mask"][place].tolist(),
            }
            for place, (key, tag, uid) in enumerate(zip(meta.keys, meta.tags, uids, strict=True))
        ]
        tq.kv_clear(keys=meta.keys, partition_id="train")
        self.log.log({"training/global_step": trainer.global_steps}, step=trainer.global_steps)
        return {"step": trainer.global_steps, "rows": rows}

    def validation(self, batch: Any) -> int:
        """Draw a validation batch and return its rollouts."""
        tu.assign_non_tensor_data(batch, "validate", True)
        tags = [{"is_prompt": True, "status": "pending", "global_steps": 0} for _ in range(len(batch))]
        tq.kv_batch_put(keys=list(batch["uid"]), partition_id="val", tags=tags)
        self.trainer.agent_loop_manager.generate_sequences(batch)
        meta, _ = self.buffer.sample(global_steps=0, partition_id="val", batch_size=len(batch))
        return len(meta.keys)


def main(settings: dict[str, Any]) -> None:
    ray.init(num_cpus=2, include_dashboard=False)
    Generation.tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    steps = Steps(configuration(settings))
    done: dict[str, Any] = {"validation": steps.validation(steps.batch())}
    kept = None
    for number, name in enumerate(STEPS, 1):
        steps.trainer.global_steps = number
        if name == "again":
            done[name] = steps.again(kept)
        else:
            kept = steps.batch("!" if name == "failing" else "")
            done[name] = steps.step(kept, forget=name == "restored")
        print(f"done {name}", flush=True)  # noqa: T201
        sys.stdin.readline()
    steps.log.finish()
    Path(settings["report"]).write_text(json.dumps(done), encoding="utf-8")
    tq.close()
    ray.shutdown()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
