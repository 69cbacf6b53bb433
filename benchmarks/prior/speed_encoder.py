"""Cold prompts through the service against the bare encoder, alternating in one run."""

from __future__ import annotations

import argparse
import asyncio
import statistics

from benchmarks.prior.speed_clock import Times
from benchmarks.prior.speed_service import TEAM, service
from benchmarks.prior.speed_world import POLICY, prompts
from rollout_budget.wire import ValuesRequest
from services.prior_api.encoders import Choice, Encoder, create
from services.prior_api.encoders.placement import Placement
from services.prior_api.service import PriorService

REQUEST = 128
"""Prompts in one request; several are under way at a time, as from several trainers."""


async def run(options: argparse.Namespace) -> None:
    """Print throughputs and their ratio, one line per seed."""
    placement = Placement.choose("auto", "auto", options.threads)
    bare = create(Choice(name="minilm"), placement)
    bare.load()
    bare.encode([prompt.text or "" for prompt in prompts(range(32), texts=True)])
    ratios = []
    async with service(create(Choice(name="minilm"), placement), device=placement.device) as prior:
        await _ask(prior, range(-64, 0))
        for seed in range(options.seeds):
            places = range(seed * options.prompts, (seed + 1) * options.prompts)
            ratios.append(await _pair(bare, prior, places))
    low, high = min(ratios), max(ratios)
    print(f"  service / bare encoder, processor time: {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})")


async def _pair(bare: Encoder, prior: PriorService, places: range) -> float:
    """Encode the same prompts both ways; return bare over service time, on processors."""
    alone, through = Times(), Times()
    texts = [prompt.text or "" for prompt in prompts(places, texts=True)]
    with alone.once():
        bare.encode(texts)
    with through.once():
        await _ask(prior, places)
    rates = [len(places) / seconds for seconds in (*alone.wall_s, *through.wall_s, *alone.cpu_s, *through.cpu_s)]
    print(
        "  prompts/s: bare {:.1f}, service {:.1f} (wall); bare {:.1f}, service {:.1f} (cpu)".format(*rates), flush=True
    )
    return rates[3] / rates[2]


async def _ask(prior: PriorService, places: range) -> None:
    """Ask for values of prompts that the service never saw, in several requests at once."""

    async def one(part: range) -> None:
        cold = prompts([place % 10**6 for place in part], texts=True)
        answer = await prior.values(TEAM, ValuesRequest(policy=POLICY, version=0, prompts=cold))
        if answer.degraded:
            raise RuntimeError(answer.detail)

    await asyncio.gather(*(one(places[start : start + REQUEST]) for start in range(0, len(places), REQUEST)))
