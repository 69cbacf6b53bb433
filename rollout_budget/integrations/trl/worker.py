"""A rollout worker for TRL's `AsyncGRPOTrainer`: the allocator decides how many rollouts a prompt gets, and advantages.

    worker = BudgetedRolloutWorker(
        rb.AsyncSession("my-run"), model=name, args=args, train_dataset=data, reward_funcs=correct
    )
    AsyncGRPOTrainer(name, args=args, train_dataset=data, rollout_worker=worker, callbacks=[worker]).train()

Owns a thread with an event loop, in the trainer's main process. Draws no further ahead than TRL's own worker does by
default, rollouts that wait for the trainer included, so that few are dropped as stale. A budget that is gone ends the
training at the next step; it raises nothing.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import AutoTokenizer, TrainerCallback
from trl.experimental.async_grpo import AsyncGRPOConfig
from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

from rollout_budget.integrations.trl.completions import Completions
from rollout_budget.integrations.trl.drawing import RewardFunction, Rewarding
from rollout_budget.integrations.trl.production import Production
from rollout_budget.integrations.trl.source import Source
from rollout_budget.session import AsyncSession

PATIENCE_S = 60.0
"""How long the budget must grant nothing before it counts as gone: limits of a day or a step may open again."""
STOP_S = 30.0
"""Longest wait at the end, for groups under way to be settled with the allocator."""
TELL_S = 5.0
"""Longest wait for the figures of a step, which take no time unless a reward function holds Python's lock."""


class BudgetedRolloutWorker(TrainerCallback):  # type: ignore[misc] # transformers is not read by the type checker
    """Obeys TRL's `RolloutWorkerProtocol`; is a callback too, so that it can end a training whose budget is gone.

    Args:
        session: not entered yet; declares the run, its outcome range and its limits.
        model: the name that the vLLM server serves, as given to the trainer.
        args: the trainer's own; `num_generations` has no effect.
        train_dataset: rows with a column `prompt`, a text or messages; gone through again and again.
        reward_funcs: as TRL takes them; their sum is what the loss uses.
        outcome: name of the one that is the verifiable outcome; needed where there are several.
        processing_class: tokenizer; by default the model's.
        prompt_key: column with a stable id of the prompt; where it is missing the id is a hash of the prompt.
        prompts_at_once: prompts that are opened and reported together, 1 or more.
        patience_s: how long the budget must grant nothing before it counts as gone.

    Raises:
        InvalidInput: it is not said which reward function is the outcome.
    """

    def __init__(
        self,
        session: AsyncSession,
        *,
        model: str,
        args: AsyncGRPOConfig,
        train_dataset: Iterable[Mapping[str, Any]],
        reward_funcs: RewardFunction | Sequence[RewardFunction],
        outcome: str | None = None,
        processing_class: Any = None,
        prompt_key: str | None = "id",
        prompts_at_once: int = 8,
        patience_s: float = PATIENCE_S,
    ) -> None:
        tokenizer = AutoTokenizer.from_pretrained(model) if processing_class is None else processing_class
        template: Any = args.chat_template_kwargs or {}
        source = Source(train_dataset, tokenizer, prompt_key, prompts_at_once, template)
        self._production = Production(session, source, Rewarding(reward_funcs, outcome), patience_s=patience_s)
        self._model = model
        self._args = args
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="budgeted-rollouts", daemon=True)

    @property
    def rollout_buffer(self) -> queue.Queue[RolloutSample]:
        """Samples, for the trainer."""
        return self._production.samples

    @property
    def metrics_queue(self) -> queue.Queue[dict[str, Any]]:
        """Figures for the trainer's log."""
        return self._production.metrics

    def start(self) -> None:
        """Begin to draw."""
        self._production.beat = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """End it; what was drawn is settled, the rest of the grants given back."""
        if self._loop is not None and self._task is not None:
            with suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def update_model_version(self, model_version: int) -> None:
        """Take the version that the server has now; figures of the budget go to the trainer's log."""
        self._production.version = model_version
        if self._loop is not None and self._thread.is_alive():
            with suppress(RuntimeError, TimeoutError):
                asyncio.run_coroutine_threadsafe(self._production.tell(), self._loop).result(TELL_S)

    def check_health(self, stale_after_s: float) -> None:
        """Raise if the worker can draw no more: vLLM is gone, or a reward function raised.

        Raises:
            RuntimeError: with the reason.
        """
        if self._failure is not None:
            raise RuntimeError(f"the rollout worker ended: {_first(self._failure)}") from self._failure
        if time.monotonic() - self._production.beat > stale_after_s:
            raise RuntimeError(f"the rollout worker has stood still for {stale_after_s:.0f} s")

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002 - its signature
        """End the training once the budget is gone and all that it bought is learned from."""
        (spent,) = broadcast_object_list([self._production.spent])  # the main process draws; all must stop together
        control.should_training_stop = control.should_training_stop or spent

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - told to the trainer by check_health
            self._failure = error

    async def _main(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._production.ahead = _ahead(self._args)
        await self._production.run(self._vllm())

    def _vllm(self) -> Completions:
        args = self._args
        settings = {
            "model": self._model,
            "max_tokens": args.max_completion_length,
            "temperature": args.temperature,
            "top_p": args.top_p,
            "top_k": args.top_k,
            "repetition_penalty": args.repetition_penalty,
            **({} if args.min_p is None else {"min_p": args.min_p}),
        }
        return Completions(args.vllm_server_base_url, timeout_s=args.request_timeout, settings=settings)


def _ahead(args: AsyncGRPOConfig) -> int:
    """Return how far to draw ahead, in rollouts; the trainer has put its own choice there by now."""
    if args.max_inflight_tasks > 0:
        return int(args.max_inflight_tasks)
    return int(max(args.max_staleness, 1) * args.per_device_train_batch_size * args.gradient_accumulation_steps)


def _first(error: BaseException) -> str:
    """Return what went wrong, without the groups around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
