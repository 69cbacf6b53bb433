"""Parts `steps` and `single`: the service beside the bare application, the same bodies and the same client."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from benchmarks.allocator import bodies, servers
from benchmarks.allocator.load import Call, Reply, open_loop
from benchmarks.allocator.options import Figure, Options
from benchmarks.allocator.servers import Server

STEP = 512
"""Groups of one training step."""
STEPS = 12
"""Steps that are observed at once in one repetition."""
IN_FLIGHT = 4
"""Steps under way together: as many as the service works on of one team, and the same for the bare application."""
SURE = 1e9
"""A rate at which every call is due at once."""


def steps(options: Options) -> list[Figure]:
    """Groups per second of observe with 512 groups of 4, all due at once."""
    count = 3 if options.quick else STEPS
    rates: defaultdict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        everyone = _everyone(stack, options, STEP)
        for seed in options.seeds:
            for server in _turned(everyone, seed):
                opens, observes, _ = batches(server, seed, STEP, count)
                if server.url:
                    _run(server, opens, SURE)
                rates[server.name].append(count * STEP / makespan(_run(server, observes, SURE)))
    return [
        Figure(
            "observe, 512 groups of 4",
            name,
            ">= 0.50",
            [ours / theirs for ours, theirs in zip(rates[name], rates["bare"], strict=True)],
            statistics.median(rates[name]),
            statistics.median(rates["bare"]),
            "groups/s",
        )
        for name in options.databases
    ]


def single(options: Options) -> list[Figure]:
    """Latency of open, observe and close of one group at a fixed rate."""
    found: defaultdict[tuple[str, str], list[list[float]]] = defaultdict(list)
    with ExitStack() as stack:
        everyone = _everyone(stack, options, 1)
        for seed in options.seeds:
            for server in _turned(everyone, seed):
                for name, latencies in by_call(_run(server, pipeline(server, seed, options), options.rate)).items():
                    found[server.name, name].append(latencies)
    return [
        _quantile(found, name, call, quantile, target)
        for name in options.databases
        for call in ("open", "observe", "close")
        for quantile, target in ((50, "<= 2.50"), (99, "<= 4.00"))
    ]


def pipeline(server: Server, seed: int, options: Options) -> list[Call]:
    """Return calls about single groups, each group's observe and close a second or so behind its open."""
    count, behind = options.calls(), max(2, int(options.rate / 3))
    opens, observes, closes = batches(server, seed, 1, count)
    turns: list[list[Call]] = [[] for _ in range(count + 2 * behind)]
    for delay, some in ((0, opens), (behind, observes), (2 * behind, closes)):
        for place, call in enumerate(some):
            turns[place + delay].append(call)
    return [call for turn in turns for call in turn]


def by_call(replies: Sequence[Reply]) -> dict[str, list[float]]:
    """Return latencies in seconds by the name of the call."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for reply in replies:
        found[reply.call.name].append(reply.latency_s)
    return dict(found)


def _everyone(stack: ExitStack, options: Options, size: int) -> list[Server]:
    """Start every service, record its answers as warm-up, start the bare application on them."""
    real = [
        stack.enter_context(
            servers.service(name, servers.database_url(name, options.folder, options.postgres), options.folder)
        )
        for name in options.databases
    ]
    recorded: dict[str, list[str]] = defaultdict(list)
    for server in real:
        for calls in batches(server, 0, size, 4 if size > 1 else 50):
            for reply in _run(server, calls, SURE):
                recorded[reply.call.name].append(reply.body.decode())
    answers = options.folder / "answers.json"
    answers.write_text(json.dumps(recorded), "utf-8")
    bare = stack.enter_context(servers.bare(answers))
    for calls in batches(bare, 0, size, 4 if size > 1 else 50):
        _run(bare, calls, SURE)
    return [*real, bare]


def batches(server: Server, seed: int, size: int, count: int) -> tuple[list[Call], list[Call], list[Call]]:
    """Declare a run and return what opens, observes and closes `count` batches of it."""
    run_id = f"run-{size}-{seed}"
    if server.url:
        asyncio.run(open_loop(server.target, [bodies.declare(run_id)], SURE, 1))
    groups, per_step = bodies.Groups(run_id, seed), max(1, bodies.STEP // size)
    batches = [groups.batch(size, 1 + place // per_step) for place in range(count)]
    opens, observes, closes = zip(*batches, strict=True)
    return list(opens), list(observes), list(closes)


def _run(server: Server, calls: Sequence[Call], per_s: float) -> list[Reply]:
    return asyncio.run(open_loop(server.target, calls, per_s, IN_FLIGHT if per_s == SURE else 64))


def makespan(replies: Sequence[Reply]) -> float:
    """Return the seconds from the moment that all were due to the last answer."""
    return max(reply.latency_s for reply in replies)


def _turned(everyone: Sequence[Server], seed: int) -> list[Server]:
    """Return the servers in an order that changes from one repetition to the next."""
    shift = seed % len(everyone)
    return [*everyone[shift:], *everyone[:shift]]


def _quantile(
    found: dict[tuple[str, str], list[list[float]]], name: str, call: str, quantile: int, target: str
) -> Figure:
    ours, theirs = ([float(np.percentile(some, quantile)) * 1e3 for some in found[one, call]] for one in (name, "bare"))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    figure = f"{call}, one group, {'median' if quantile == 50 else f'p{quantile}'}"
    return Figure(figure, name, target, ratios, statistics.median(ours), statistics.median(theirs), "ms")
