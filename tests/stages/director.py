"""One case: a run, the faults that meet it at their moment, and starting again what may be started again.

Owns when things happen; what must hold afterwards is `checks`' business.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rollout_budget.client import AllocatorClient
from rollout_budget.errors import NotFound
from rollout_budget.wire import Run
from tests.stages.cases import STEPS, Case, Strike
from tests.stages.learner import LearnerProcess
from tests.stages.plant import PAUSE_S, SLOW_S, Machine, Plant

PHASES = {"rollouts", "learning", "publishing", "evaluation", "checkpoint"}
"""What the trainer does one after another; its other stages are within these."""
STARTS = 4
"""Most starts of a run: one for each kill of it, and one that reports what nobody could be told before."""
BACK_AFTER = 2
"""A service that was killed is back before the step this many later is drawn."""
TURNS = 15
"""How often a slow learner is stopped, for `TURN_S` each, and goes on for a third of that."""
TURN_S = 0.15
RUN_S = 400.0
"""Longest a case may take: two servers that hang cost the longest waits for each of them, about three minutes."""


@dataclass(slots=True)
class Outcome:
    """What a case left.

    Attributes:
        directory: of the run.
        record: copies of the journal's files, with those that a checkpoint has made superfluous.
        run: as the allocator has it.
        statuses: exit statuses of the trainer.
        finished: completions that vLLM's servers finished during the case; what a killed one had is lost.
        struck: faults that happened, and the step under way then.
    """

    directory: Path
    record: Path
    log: Path
    run: Run | None = None
    statuses: list[int] = field(default_factory=list)
    finished: int = 0
    struck: dict[Strike, int] = field(default_factory=dict)
    seconds: float = 0.0


class Director:
    """Plays one case on a plant. Everyone is up afterwards, but for a server that was killed."""

    def __init__(self, plant: Plant, case: Case, name: str, *, exact: bool) -> None:
        self._plant = plant
        self._case = case
        self._exact = exact
        runs = plant.folder / "runs"
        self._out = Outcome(runs / name, plant.folder / "records" / name, plant.folder / "logs" / f"{name}.log")
        self._waiting = list(case.strikes)
        self._step = 0
        self._phase = ""
        self._learner: LearnerProcess | None = None
        self._mending: dict[str, asyncio.Task[None]] = {}
        self._later: set[asyncio.Task[None]] = set()
        self._due: dict[str, int] = {}

    async def play(self) -> Outcome:
        """Run the case to its end."""
        began = time.monotonic()
        await self._plant.mend()
        self._out.log.parent.mkdir(exist_ok=True)
        for machine in self._plant.machines:
            machine.proxy.heard = partial(self._asked, machine)
        before = await self._finished()
        try:
            async with asyncio.timeout(RUN_S):
                await self._train()
                await asyncio.gather(*self._mending.values(), *self._later)
                await self._report()
        finally:
            self._plant.listen(None)
            for task in (*self._mending.values(), *self._later):
                task.cancel()
            for machine in self._plant.machines:
                machine.go_on()
        after = await self._finished()
        self._out.finished = sum(now - before.get(life, 0) for life, now in after.items())
        self._out.seconds = time.monotonic() - began
        return self._out

    async def _finished(self) -> dict[tuple[str, int], int]:
        """Return what each life of each vLLM server that is up has finished."""
        up = [machine for machine in self._plant.servers if machine.is_up]
        counts = await asyncio.gather(*(machine.finished() for machine in up))
        return {(machine.name, machine.lives): count for machine, count in zip(up, counts, strict=True)}

    async def _train(self) -> None:
        """Start the trainer until it has ended by itself."""
        while len(self._out.statuses) < STARTS and (not self._out.statuses or self._out.statuses[-1] != 0):
            status = await self._start()
            for strike in self._out.struck:
                if strike.fault in {"lose", "hang"} and strike.target != "learner":
                    await self._bring_back(strike)
            if status > 0:
                return

    async def _start(self) -> int:
        learner = LearnerProcess(self._arguments(), self._out.log, self._told)
        self._learner = learner
        learner.start()
        try:
            status = await learner.wait()
        finally:
            await learner.close()
            self._keep_record()
        self._out.statuses.append(status)
        return status

    async def _report(self) -> None:
        """Bring back who was gone for the whole run, and start the trainer again where it had something left to tell."""
        for strike in self._out.struck:
            if strike.fault == "gone":
                await self._bring_back(strike)
        if not self._plant.allocator.is_up:
            await self._plant.allocator.start()
        run = await self._run()
        if run is None or run.status != "finished":
            await self._start()
            run = await self._run()
        self._out.run = run

    async def _run(self) -> Run | None:
        key = self._plant.key_file.read_text().strip()
        async with AllocatorClient(self._plant.allocator.proxy.url, key) as client:
            try:
                return await client.get_run(self._out.directory.name)
            except NotFound:
                return None

    def _arguments(self) -> list[str]:
        plant = self._plant
        urls = ", ".join(f'"{server.proxy.url}"' for server in plant.servers)
        rules = (
            ("allocator.estimator=leave_one_out", "allocator.stopping=fixed", "allocator.k_init=3", "allocator.k_max=3")
            if self._exact
            else ("allocator.k_init=2", "allocator.k_max=4", "allocator.price=0.02")
        )
        return [
            f"run.output_dir={self._out.directory.parent}",
            f"run.id={self._out.directory.name}",
            f"run.steps={STEPS}",
            f"policy.path={plant.policy}",
            "task.arithmetic.levels=[1]",
            "task.arithmetic.size=40",
            "task.arithmetic.held_out_size=4",
            f"allocator.url={plant.allocator.proxy.url}",
            f"allocator.key_file={plant.key_file}",
            *rules,
            f"rollouts.urls=[{urls}]",
            "rollouts.prompts_per_step=8",
            "rollouts.max_tokens=4",
            f"rollouts.max_staleness={self._case.ahead}",
            "learner.importance=truncated",
            "learner.lr=1e-3",
            "checkpoint.every=2",
            "weights.keep=10",
            "evaluation.every=2",
            "logging.progress=false",
        ]

    def _keep_record(self) -> None:
        """Copy the journal: a checkpoint makes files of it superfluous, and the checks read them."""
        self._out.record.mkdir(parents=True, exist_ok=True)
        for path in (self._out.directory / "rollouts").glob("*.jsonl"):
            with suppress(FileNotFoundError):
                shutil.copy(path, self._out.record / path.name)

    async def _told(self, stage: str, step: int) -> None:
        """Hear where the trainer is."""
        if stage in PHASES:
            self._step, self._phase = step, stage
        if stage == "checkpoint":
            self._keep_record()
        if stage == "rollouts":
            for name, due in self._due.items():
                if step >= due:
                    await self._mending[name]
        await self._reach(stage, answered=False, at=None)

    async def _asked(self, machine: Machine, stage: str, answered: bool) -> bool:  # noqa: FBT001 - told by a proxy
        """Hear of a request; say whether its answer is lost with who gave it."""
        name = "measure" if stage == "generate" and self._phase == "evaluation" else stage
        await self._reach(name, answered=answered, at=machine)
        return answered and not machine.is_up

    async def _reach(self, stage: str, *, answered: bool, at: Machine | None) -> None:
        for strike in list(self._waiting):
            met = strike.stage == stage and strike.answered == answered and self._step >= strike.step
            elsewhere = strike.target == "server" and at is not None and at is not self._machine(strike)
            if met and not elsewhere and strike in self._waiting:
                self._waiting.remove(strike)
                self._out.struck[strike] = self._step
                await self._strike(strike)

    def _machine(self, strike: Strike) -> Machine:
        plant = self._plant
        return {"prior": plant.prior, "allocator": plant.allocator, "server": plant.servers[1]}[strike.target]

    async def _strike(self, strike: Strike) -> None:
        if strike.target == "learner":
            await self._strike_learner(strike)
            return
        machine = self._machine(strike)
        if strike.fault in {"kill", "lose", "gone"}:
            await machine.kill()
            if strike.fault == "kill":
                self._mending[machine.name] = asyncio.ensure_future(machine.start())
                self._due[machine.name] = strike.step + BACK_AFTER
        elif strike.fault in {"pause", "hang"}:
            machine.stop()
            if strike.fault == "pause":
                self._after(PAUSE_S, machine.go_on)
        else:
            machine.proxy.delay_s = SLOW_S

    async def _strike_learner(self, strike: Strike) -> None:
        learner = self._learner
        assert learner is not None
        if strike.fault == "kill":
            learner.kill()
        elif strike.fault == "pause":
            os.kill(learner.pid, signal.SIGSTOP)
            self._after(PAUSE_S, partial(_signal, learner.pid, signal.SIGCONT))
        else:
            for turn in range(TURNS):
                begins = turn * TURN_S * 4 / 3
                self._after(begins, partial(_signal, learner.pid, signal.SIGSTOP))
                self._after(begins + TURN_S, partial(_signal, learner.pid, signal.SIGCONT))

    def _after(self, seconds: float, act: Callable[[], object]) -> None:
        async def later() -> None:
            await asyncio.sleep(seconds)
            act()

        self._later.add(asyncio.ensure_future(later()))

    async def _bring_back(self, strike: Strike) -> None:
        """Mend what a fault did; a vLLM server takes its time, so it is started when a case needs it."""
        machine = self._machine(strike)
        machine.go_on()
        if strike.target != "server":
            await machine.start()


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
