"""verl's agent-loop manager with groups of the allocator's size: a first wave, then more where more are worth it.

    actor_rollout_ref.rollout.agent.agent_loop_manager_class=rollout_budget.integrations.verl.loop.BudgetedAgentLoopManager

Overrides four methods of verl's manager and worker for its TransferQueue. To verl a prompt has one session, which
stands for the group; in its place the waves are drawn, each rollout under a session number of its own. Statuses,
failures and validation stay verl's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import ray
import torch
import transfer_queue
from omegaconf import OmegaConf
from tensordict import NonTensorStack, TensorDict
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.ray_utils import auto_await

from rollout_budget.errors import InvalidInput
from rollout_budget.integrations.verl.desk import Desk, Rollout
from rollout_budget.integrations.verl.estimator import Batch, keep
from rollout_budget.session.waiting import KEY, URL

TELL_S = 30.0
"""Longest wait for figures and for the end of the session."""
NAMED = ("uid", "raw_prompt", "data_source", "extra_info")
UNNAMED = ("agent_name", "trace")
VerlWorker: Any = AgentLoopWorkerTQ.__ray_actor_class__


@ray.remote  # as verl's own: Ray must send both classes by value, for under its name verl's cannot be found
class BudgetedAgentLoopWorker(VerlWorker):  # type: ignore[misc] # verl lives in another environment
    """Draws the waves of its prompts' groups; `attend` tells where the desk is."""

    def attend(self, desk: Any) -> None:
        """Take a handle of the desk."""
        self._desk = desk

    async def _run_prompt(
        self,
        prompt: dict[str, Any],
        params: dict[str, Any],
        trajectory: dict[str, Any],
        trace: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        alone = {} if trajectory["validate"] else {"__rollout_n__": 1}
        await super()._run_prompt({**prompt, **alone}, params, trajectory, trace)

    async def _run_agent_loop(self, params: dict[str, Any], trajectory: dict[str, Any], **prompt: Any) -> Any:
        """Draw a group: all its waves, reported one after the other.

        Raises:
            BaseExceptionGroup: rollouts failed; the others are reported and in verl's queue.
        """
        if trajectory["validate"]:
            return await super()._run_agent_loop(params, trajectory, **prompt)
        uid, drawn, faults = prompt["uid"], 0, []
        want = await self._desk.first.remote(uid)
        if not want:
            await self._blank(params, trajectory, prompt)
        while want:
            places = range(drawn, drawn + want)
            runs = [self._session(params, trajectory, {**prompt, "session_id": place}) for place in places]
            found = await asyncio.gather(*runs, return_exceptions=True)
            faults += [one for one in found if isinstance(one, BaseException)]
            rollouts = [one for one in found if isinstance(one, Rollout)]
            drawn += want
            want = await self._desk.report.remote(uid, rollouts, len(found) - len(rollouts))
        if faults:
            raise BaseExceptionGroup(f"{len(faults)} of {drawn} rollouts failed", faults)
        return None

    async def _session(self, params: dict[str, Any], trajectory: dict[str, Any], prompt: dict[str, Any]) -> Any:
        return await super()._run_agent_loop(dict(params), trajectory, **prompt)

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **prompt: Any) -> Rollout | None:  # noqa: FBT001
        """Put a rollout into verl's queue as verl does, and return what the desk needs of it."""
        await super()._agent_loop_postprocess(output, validate, **prompt)
        outputs = output if isinstance(output, list) else [output]
        if validate or not outputs or outputs[-1].reward_score is None:
            return None
        told = outputs[-1].extra_fields.get("reward_extra_info") or {}
        tokens = sum(sum(one.response_mask) for one in outputs)
        return Rollout(float(outputs[-1].reward_score), told, tokens)

    async def _blank(self, params: dict[str, Any], trajectory: dict[str, Any], prompt: dict[str, Any]) -> None:
        """Put one token that teaches nothing into the queue: verl cannot train on a batch without any.

        The token is not masked, since verl divides by the number of those that are not.
        """
        end, step = int(self.tokenizer.eos_token_id), int(trajectory["step"])
        versions = {"min_global_steps": step, "max_global_steps": step}
        output = AgentLoopOutput(
            prompt_ids=[end],
            response_ids=[end],
            response_mask=[1],
            reward_score=0.0,
            num_turns=0,
            metrics=AgentLoopMetrics(),
            extra_fields={"turn_scores": [], "tool_rewards": [], "reward_extra_info": {}, **versions},
            **({"response_logprobs": [0.0]} if params.get("logprobs") else {}),
        )
        named = {name: value for name, value in prompt.items() if name not in UNNAMED} | {"session_id": 0}
        await super()._agent_loop_postprocess(output, False, **named)
        tag = {"is_padding": True}
        await transfer_queue.async_kv_put(key=f"{prompt['uid']}_0_0", partition_id="train", tag=tag)


class BudgetedAgentLoopManager(AgentLoopManagerTQ):  # type: ignore[misc] # verl lives in another environment
    """verl's own, with the workers above, a desk for all of them, and the estimator's books on it.

    Raises:
        InvalidInput: the run is not declared or its rules do not exist, or rewards come only after generation.
        Unauthorized: the team's key is not good.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.agent_loop_workers_class = BudgetedAgentLoopWorker
        if self.reward_loop_worker_handles is None:
            raise InvalidInput(
                "a reward model on the policy's own GPUs scores after generation, too late for further waves: "
                "set reward.reward_model.enable_resource_pool=True, or leave agent_loop_manager_class out"
            )

    @classmethod
    @auto_await  # type: ignore[untyped-decorator] # verl lives in another environment
    async def create(cls, *args: Any, **more: Any) -> BudgetedAgentLoopManager:
        """Start workers and desk."""
        manager = cls(*args, **more)
        algorithm = OmegaConf.to_container(manager.config.algorithm, resolve=True)
        place = os.environ.get(URL), os.environ.get(KEY)
        Desk(algorithm, *place)  # here first, where a fault of the declaration ends the training with its own words
        await manager._init_agent_loop_workers()
        manager.desk = ray.remote(Desk).options(num_cpus=0).remote(algorithm, *place)
        await manager.desk.enter.remote()
        await asyncio.gather(*(worker.attend.remote(manager.desk) for worker in manager.agent_loop_workers))
        keep(Desked(manager.desk))
        return manager

    def generate_sequences(self, prompts: TensorDict) -> None:
        """Open a group for each prompt of a training batch, in one call, and let the workers draw."""
        if "validate" not in prompts or not _column(prompts, "validate")[0]:
            columns = {name: _column(prompts, name) for name in NAMED if name in prompts}
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            version = max(int(_column(prompts, "global_steps")[0]) - 1, 0)
            ray.get(self.desk.open.remote(rows, version))
        super().generate_sequences(prompts)


class Desked:
    """The estimator's books where the desk has them."""

    def __init__(self, desk: Any) -> None:
        self._desk = desk

    def advantages(self, batch: Batch) -> list[float]:
        """See `Books`. Groups from before a restart are not in these books: the others' mean is their baseline."""
        known: Mapping[str, Mapping[float, float]] = ray.get(self._desk.advantages.remote(list(batch.rows)))
        gains = [0.0] * len(batch.uids)
        for uid, rows in batch.rows.items():
            rewards = [batch.rewards[row] for row in rows]
            for row, reward in zip(rows, rewards, strict=True):
                gains[row] = _gain(reward, rewards, known.get(uid))
        return gains

    def metrics(self) -> dict[str, float]:
        """See `Books`."""
        figures: dict[str, float] = ray.get(self._desk.metrics.remote(), timeout=TELL_S)
        return figures

    def leave(self) -> None:
        """See `Books`."""
        ray.get(self._desk.leave.remote(), timeout=TELL_S)


def _gain(reward: float, rewards: list[float], known: Mapping[float, float] | None) -> float:
    if known is not None and (reward in known or not known):
        return known.get(reward, 0.0)  # of a group that was not drawn there is a blank alone
    return (reward - sum(rewards) / len(rewards)) * len(rewards) / max(len(rewards) - 1, 1)


def _column(prompts: TensorDict, name: str) -> list[Any]:
    """Return a column as plain values, one per prompt; verl keeps one that is the same for all only once."""
    column = dict(prompts.items())[name]
    if isinstance(column, torch.Tensor):
        return list(column.tolist())
    if isinstance(column, NonTensorStack):
        return [column[place].data for place in range(len(prompts))]
    return [column.data] * len(prompts)
