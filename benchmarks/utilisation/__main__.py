"""`python -m benchmarks.utilisation`: vLLM's own metrics with the allocator's services and without any, in pairs.

Starts vLLM servers of a random policy, the prior service and the allocator, draws steps of groups as the trainer does,
then the same waves without an allocator, then the same number of rollouts in fixed groups of 16. The figures are ratios of
sampled tokens per second: to the same waves, which says what decisions cost (target 0.95), and to fixed groups, which
says what small waves and many requests cost beside that.

Everything shares this machine: servers, services, this process. On few cores the services take processor time from the
servers, which on a machine with GPUs they do not. Measured figures: docs/weights.md.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from benchmarks.utilisation.arms import RUN, Arms, Drawn, in_turn
from benchmarks.utilisation.meter import Meter, Reading
from rollout_budget.client import AllocatorClient
from trainer import tasks
from trainer.config import Config, DemoPolicySection
from trainer.errors import TrainerError
from trainer.launch import staged
from trainer.policy import character_tokenizer, demo_model, encode_prompt, load_tokenizer
from trainer.rollouts.pool import ServerPool
from trainer.rollouts.vllm import VllmServer
from trainer.runs import run_spec
from trainer.servers import ServerProcess, VllmOptions, find_vllm, vllm_server
from trainer.types import Problem, Sampling
from trainer.weights.exports import export_directory
from trainer.weights.filesystem import FilesystemPublisher

TARGET = 0.95
SHAPE = DemoPolicySection(hidden_size=256, intermediate_size=768, layers=6)
"""Five million parameters: large enough that a step takes tens of seconds on two cores, as no decision of it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status: 1 where the mean ratio misses the target."""
    options = _parser().parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="utilisation-")))
        policy = make_policy(folder)
        runner = stack.enter_context(asyncio.Runner())
        servers = AsyncExitStack()
        stack.callback(lambda: runner.run(servers.aclose()))
        try:
            urls = runner.run(_start(servers, policy, folder, options))
            config = Config()
            config = config.model_copy(update={"rollouts": config.rollouts.model_copy(update={"urls": urls})})
            stage = stack.enter_context(staged(config, folder, policy, print))
            ratios = asyncio.run(_measure(stage.config, policy, options))
        except TrainerError as error:
            sys.stderr.write(f"benchmarks.utilisation: {error}\n")
            return 2
    return _conclude(ratios)


def make_policy(folder: Path) -> Path:
    """Write a randomly initialised policy; it stops about once in a hundred tokens."""
    with export_directory(folder / "weights", 0) as directory:
        tokenizer = character_tokenizer()
        tokenizer.save_pretrained(directory)
        demo_model(SHAPE, tokenizer).save_pretrained(directory)
    return folder / "weights" / "v0"


async def _start(stack: AsyncExitStack, policy: Path, folder: Path, options: argparse.Namespace) -> list[str]:
    build = await find_vllm()
    if build.python is None:
        raise TrainerError(build.reason)
    flags = VllmOptions(max_num_seqs=options.sequences)
    processes = [
        ServerProcess(vllm_server(policy, build.python, flags), log=folder / f"vllm-{place}.log")
        for place in range(options.servers)
    ]
    for process in processes:
        await stack.enter_async_context(process)
    return [process.url for process in processes]


async def _measure(config: Config, policy: Path, options: argparse.Namespace) -> list[tuple[float, float]]:
    url, key = config.allocator.url, config.allocator.key_file
    if url is None or key is None:
        raise TrainerError("the allocator did not start")
    tokenizer = load_tokenizer(policy)
    pool = ServerPool([VllmServer(url) for url in config.rollouts.urls])
    meter = Meter(config.rollouts.urls)
    problems = tasks.get("arithmetic", {"size": options.prompts * options.steps * options.repetitions}).train()
    try:
        await FilesystemPublisher(pool).publish(policy, 0)
        async with AllocatorClient(url, key.read_text().strip()) as allocator:
            arms = Arms(
                pool,
                allocator,
                lambda prompt: encode_prompt(tokenizer, prompt, chat_template=False),
                Sampling(max_tokens=options.tokens),
                over_issue=options.over_issue,
            )
            spec = run_spec(config, Path(RUN)).model_copy(update={"price": options.price})
            await allocator.create_run(spec)
            print("  arm         rollouts  in vain  waves  tokens  seconds  tokens/s   busy  together  queued s")
            await arms.budgeted(problems[: options.prompts], options.repetitions * options.steps)  # warms everything up
            return [await _pair(arms, meter, pair, problems, options) for pair in range(options.repetitions)]
    finally:
        await meter.close()
        await pool.close()


async def _pair(
    arms: Arms, meter: Meter, pair: int, problems: Sequence[Problem], options: argparse.Namespace
) -> tuple[float, float]:
    """Measure some steps in all arms and print them; return tokens per second over those of the other two."""
    first = pair * options.steps

    def prompts(step: int) -> Sequence[Problem]:
        return problems[(first + step) * options.prompts : (first + step + 1) * options.prompts]

    async with meter.reading() as budgeted:
        drawn = await in_turn(options.steps, options.ahead, lambda step: arms.budgeted(prompts(step), first + step))
    async with meter.reading() as same:
        again = await in_turn(
            options.steps, options.ahead, lambda step: arms.same(prompts(step), drawn[step].sizes, first + step)
        )
    async with meter.reading() as fixed:
        without = await in_turn(
            options.steps,
            options.ahead,
            lambda step: arms.fixed(prompts(step), drawn[step].rollouts, first + step),
        )
    _row("budgeted", sum(drawn, Drawn(0)), budgeted)
    _row("same waves", sum(again, Drawn(0)), same)
    _row("fixed 16", sum(without, Drawn(0)), fixed)
    own = budgeted.tokens_per_second
    return own / same.tokens_per_second, own / fixed.tokens_per_second


def _row(name: str, drawn: Drawn, reading: Reading) -> None:
    print(
        f"  {name:10}  {drawn.rollouts:8}  {drawn.cancelled:7}  {drawn.waves:5}  {reading.tokens:6.0f}  "
        f"{reading.seconds:7.1f}  {reading.tokens_per_second:8.0f}  {reading.busy:5.0%}  {reading.together:8.1f}  "
        f"{reading.queued_s:8.2f}"
    )


def _conclude(ratios: Sequence[tuple[float, float]]) -> int:
    decisions = _say("the same waves without an allocator", [pair[0] for pair in ratios])
    _say("fixed groups of 16", [pair[1] for pair in ratios])
    print(f"target, against the same waves: {TARGET}")
    return 0 if decisions >= TARGET else 1


def _say(other: str, ratios: Sequence[float]) -> float:
    """Print and return a geometric mean with its spread."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = math.exp(statistics.fmean(logs))
    error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
    print(
        f"tokens per second, with the allocator over {other}: {mean:.3f} (geometric mean of {len(ratios)}, "
        f"{min(ratios):.3f} to {max(ratios):.3f}, standard error {error:.1%})"
    )
    return mean


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.utilisation", description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=6, help="pairs that count (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="steps per pair and arm (default: %(default)s)")
    parser.add_argument(
        "--ahead", type=int, default=0, help="steps begun before the last is done, as max_staleness allows (default: 0)"
    )
    parser.add_argument("--prompts", type=int, default=64, help="prompts of a step (default: %(default)s)")
    parser.add_argument(
        "--price",
        type=float,
        default=1 / 1024,
        help="of a rollout; the paper's, so that most groups have several waves",
    )
    parser.add_argument("--tokens", type=int, default=96, help="longest completion (default: %(default)s)")
    parser.add_argument("--servers", type=int, default=1, help="vLLM servers (default: %(default)s)")
    parser.add_argument(
        "--sequences", type=int, default=32, help="completions that a server runs together (default: %(default)s)"
    )
    parser.add_argument(
        "--over-issue", type=float, default=0.0, help="open this share of prompts more, cancel the last (default: 0)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
