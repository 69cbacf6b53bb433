"""The demonstration: the same task, pool of prompts and number of rollouts, trained twice on the same servers.

Owns the two methods, the comparison and the reconciliation of three independent counts of rollouts: the allocator's
ledger, the trainer's own, and vLLM's. The method of this project runs first, so that the other's evidence cannot help
its prior.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rollout_budget.client import SyncAllocatorClient
from trainer.config import AllocatorSection, Config
from trainer.launch import staged
from trainer.loop import run_training
from trainer.metrics import Summary
from trainer.policy import ensure_policy
from trainer.report import compare, text_table, write_report
from trainer.rollouts.vllm import VllmServer

BUDGETED = "rollout-budget"
GRPO = "GRPO, 16 per prompt"
METHODS: dict[str, AllocatorSection] = {
    BUDGETED: AllocatorSection(),
    GRPO: AllocatorSection(estimator="group_mean", stopping="fixed", k_init=16, k_max=16, prior_model="constant"),
}
"""GRPO as its group mean: advantages are not divided by the group's standard deviation, for either method."""


@dataclass(frozen=True, slots=True)
class Account:
    """One run's rollouts as counted by the ledger and by the trainer; `evaluation` was drawn off the budget."""

    run: str
    ledger: int
    trainer: int
    evaluation: int


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Three counts of the same rollouts. `vllm` counts finished completions; None where no vLLM server took part."""

    accounts: tuple[Account, ...]
    vllm: int | None

    @property
    def expected(self) -> int:
        """Completions that vLLM must have finished for what the trainer says that it drew."""
        return sum(account.trainer + account.evaluation for account in self.accounts)

    @property
    def agrees(self) -> bool:
        """Whether all counts are equal."""
        served = self.vllm is None or self.vllm == self.expected
        return served and all(account.ledger == account.trainer for account in self.accounts)


def run_demo(config: Config, directory: Path, console: Console) -> Reconciliation:
    """Train with every method on one set of servers, print the comparison and write the report.

    Args:
        config: task, policy, learner and rollouts of both runs; its allocator's estimator and rule are replaced.
        directory: new folder for runs, logs and report.
        console: where progress and tables go.

    Raises:
        TrainerError: a server did not start, or a training could not go on.
    """
    began = time.monotonic()
    console.print("Making and warming up the policy (about a minute; kept for the next time) ...")
    policy = ensure_policy(config)
    with staged(config, directory, policy, console.print) as stage:
        before = asyncio.run(served(stage.config.rollouts.urls))
        summaries = [_train(stage.config, method, directory) for method in METHODS]
        after = asyncio.run(served(stage.config.rollouts.urls))
        result = reconcile(stage.config, summaries, None if before is None or after is None else after - before)
    runs = [summary.directory for summary in summaries]
    comparison = compare(runs)
    console.print(text_table(comparison))
    console.print(counts_table(result))
    report = write_report(comparison, directory / "report")
    console.print(f"Report (opens offline): {report}\nAll in all {time.monotonic() - began:.0f} s.")
    return result


def method_config(config: Config, method: str, directory: Path) -> Config:
    """Return the configuration of one method's run: the same but for estimator, stopping rule and group sizes."""
    places = {"url": config.allocator.url, "key_file": config.allocator.key_file}
    run = {"id": method.lower().replace(",", "").replace(" ", "-"), "name": method, "output_dir": directory}
    return config.model_copy(
        update={
            "run": config.run.model_copy(update=run),
            "allocator": METHODS[method].model_copy(update=places),
        }
    )


def _train(config: Config, method: str, directory: Path) -> Summary:
    summary = run_training(method_config(config, method, directory))
    if summary is None:
        raise RuntimeError("the demo runs in one process, which leads")
    return summary


def reconcile(config: Config, summaries: Sequence[Summary], vllm: int | None) -> Reconciliation:
    """Set the ledger's committed rollouts beside the trainer's own count and vLLM's."""
    ledger: dict[str | None, int] = {}
    if config.allocator.url is not None and config.allocator.key_file is not None:
        with SyncAllocatorClient(config.allocator.url, config.allocator.key_file.read_text().strip()) as client:
            rows = client.usage(("run",)).rows
        ledger = {row.run: row.counts.committed + row.counts.overage for row in rows}
    accounts = tuple(
        Account(item.run_id, ledger.get(item.run_id, 0), item.rollouts, item.evaluation_rollouts) for item in summaries
    )
    return Reconciliation(accounts, vllm)


async def served(urls: Sequence[str]) -> int | None:
    """Return the completions that these servers have finished so far; None if there are no servers."""
    total = 0
    for url in urls:
        server = VllmServer(url)
        try:
            total += await server.finished_requests()
        finally:
            await server.close()
    return total if urls else None


def counts_table(result: Reconciliation) -> Table:
    """Return the three counts as a table for a terminal."""
    verdict = "All counts agree." if result.agrees else "THE COUNTS DISAGREE."
    table = Table(title="Rollouts, counted three times", caption=verdict, title_justify="left", caption_justify="left")
    for column in ("run", "ledger: committed", "trainer: drawn", "evaluation, off the budget", "vLLM: finished"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for account in result.accounts:
        table.add_row(account.run, f"{account.ledger:,}", f"{account.trainer:,}", f"{account.evaluation:,}", "")
    totals = (sum(getattr(item, name) for item in result.accounts) for name in ("ledger", "trainer", "evaluation"))
    vllm = "none here" if result.vllm is None else f"{result.vllm:,} (expected {result.expected:,})"
    table.add_row("both", *(f"{total:,}" for total in totals), vllm)
    return table
