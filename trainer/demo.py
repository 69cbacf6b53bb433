"""The demonstration: the same task, pool of prompts and number of rollouts, trained twice on the same servers.

Owns the two methods, the comparison and the reconciliation of three independent counts of rollouts: the allocator's
ledger, the trainer's own, and vLLM's. Every run is a team of its own, so that no run's evidence helps another's prior.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rollout_budget.client import SyncAdminClient, SyncAllocatorClient
from rollout_budget.wire import KeyCreate, TeamCreate
from trainer.config import Config, with_recipe
from trainer.launch import ALLOCATOR, Stage, staged
from trainer.loop import run_training
from trainer.metrics import Summary
from trainer.policy import ensure_policy
from trainer.report import compare, text_table, write_report
from trainer.rollouts.vllm import VllmServer

BUDGETED = "rollout_budget"
GRPO = "grpo"
COMPARED = (BUDGETED, GRPO)
"""Recipes that the demo trains unless asked for more."""


@dataclass(frozen=True, slots=True)
class Account:
    """One run's rollouts by the ledger (None without a service) and by the trainer; `evaluation` is off the budget."""

    run: str
    ledger: int | None
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
        return served and all(account.ledger in {None, account.trainer} for account in self.accounts)


def run_demo(
    config: Config, directory: Path, console: Console, *, seeds: int, methods: Sequence[str] = COMPARED
) -> Reconciliation:
    """Train with every method and seed on one set of servers, print the comparison and write the report.

    Args:
        config: task, policy, learner and rollouts of all runs; what a recipe names is replaced, its allocator's rules as a whole.
        directory: new folder for runs, logs and report.
        console: where progress and tables go.
        seeds: runs of each method, with seeds counted from `config.run.seed`.
        methods: names of recipes.

    Raises:
        TrainerError: a server did not start, or a training could not go on.
    """
    began = time.monotonic()
    console.print("Making and warming up the policy (about half a minute; kept for the next time) ...")
    policy = ensure_policy(config)
    with staged(config, directory, policy, console.print) as stage:
        before = asyncio.run(served(stage.config.rollouts.urls))
        runs = [
            train_one(stage, method, config.run.seed + offset, directory)
            for offset in range(seeds)
            for method in methods
        ]
        after = asyncio.run(served(stage.config.rollouts.urls))
        result = reconcile(runs, None if before is None or after is None else after - before)
    comparison = compare([summary.directory for _, summary in runs])
    console.print(text_table(comparison))
    console.print(counts_table(result))
    report = write_report(comparison, directory / "report")
    console.print(f"Report (opens offline): {report}\nAll in all {time.monotonic() - began:.0f} s.")
    return result


def train_one(stage: Stage, method: str, seed: int, directory: Path) -> tuple[Config, Summary]:
    """Train with one method and seed; return what it was configured with and what came out."""
    config = as_team(stage, method_config(stage.config, method, seed, directory))
    summary = run_training(config)
    if summary is None:
        raise RuntimeError("the demo runs in one process, which leads")
    return config, summary


def method_config(config: Config, method: str, seed: int, directory: Path) -> Config:
    """Return the configuration of one run: the same for all methods but for what their recipes change."""
    run = {"id": f"{method}-seed{seed}", "seed": seed, "output_dir": directory}
    method_of = with_recipe(config, method)
    return method_of.model_copy(update={"run": method_of.run.model_copy(update=run)})


def as_team(stage: Stage, config: Config) -> Config:
    """Make a team and a key for a run at the allocator that was started here; one given by URL keeps its own team."""
    if ALLOCATOR not in stage.processes or config.allocator.url is None or config.allocator.key_file is None:
        return config
    team, folder = config.run.id, config.allocator.key_file.parent
    with SyncAdminClient(config.allocator.url, (folder / "admin.key").read_text().strip()) as admin:
        admin.create_team(TeamCreate(team=team))
        token = admin.create_key(KeyCreate(team=team, label="demo"), idempotency_key=team).token
    key_file = folder / f"{team}.key"
    key_file.touch(mode=0o600)
    key_file.write_text(token)
    return config.model_copy(update={"allocator": config.allocator.model_copy(update={"key_file": key_file})})


def reconcile(runs: Sequence[tuple[Config, Summary]], vllm: int | None) -> Reconciliation:
    """Set the ledger's committed rollouts beside the trainer's own count and vLLM's."""
    return Reconciliation(tuple(_account(config, summary) for config, summary in runs), vllm)


def _account(config: Config, summary: Summary) -> Account:
    booked = None
    if config.allocator.url is not None and config.allocator.key_file is not None:
        with SyncAllocatorClient(config.allocator.url, config.allocator.key_file.read_text().strip()) as client:
            usage = client.get_run(summary.run_id).usage
        booked = usage.committed + usage.overage
    return Account(summary.run_id, booked, summary.rollouts, summary.evaluation_rollouts)


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
    verdict = "All counts agree." if result.agrees else f"THE COUNTS DISAGREE: vLLM should have {result.expected:,}."
    table = Table(
        title="Rollouts: committed, drawn, drawn off the budget, finished",
        caption=verdict,
        title_justify="left",
        caption_justify="left",
    )
    for column in ("run", "ledger", "trainer", "evaluation", "vLLM"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for account in result.accounts:
        ledger = "none here" if account.ledger is None else f"{account.ledger:,}"
        table.add_row(account.run, ledger, f"{account.trainer:,}", f"{account.evaluation:,}", "")
    ledgers, trained, evaluated = (
        sum(getattr(item, name) or 0 for item in result.accounts) for name in ("ledger", "trainer", "evaluation")
    )
    vllm = "none here" if result.vllm is None else f"{result.vllm:,}"
    table.add_row("all", f"{ledgers:,}", f"{trained:,}", f"{evaluated:,}", vllm)
    return table
