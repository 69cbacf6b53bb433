"""Whole trainings in real processes, struck at every stage of a step, in an order of the seed's own.

One case after another until the time is over; a soak of an hour and a half plays them all.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from tests.soak.result import Result
from tests.stages.__main__ import play
from tests.stages.cases import everything
from trainer.servers import find_vllm


def stages(seconds: float, seed: int) -> Result:
    """Play cases until the time is over."""
    result = Result("stages", "runs", seeds=str(seed))
    began = time.perf_counter()
    build = asyncio.run(find_vllm())
    if build.python is None:
        result.notes.append(f"nothing was played: {build.reason}")
        return result
    cases = everything(seed)
    with tempfile.TemporaryDirectory(prefix="rb-stages-") as folder:
        tally = asyncio.run(play(cases, Path(folder), time.monotonic() + seconds))
    result.operations, result.faults = tally.cases, tally.faults
    result.violations = [f"{one} (python -m tests.stages --cases {one.partition(':')[0]})" for one in tally.wrong]
    result.notes.append(f"{tally.cases} of {len(cases)} cases")
    result.seconds = time.perf_counter() - began
    return result
