"""What importing pulls in, seen in a fresh interpreter: the core and SDK stay light, configuration needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.architecture.sources import sources, within
from tests.architecture.test_arrows import HEAVY
from tests.paths import ROOT

CORE = [
    source.name
    for source in sources()
    if within(source.name, "rollout_budget") and not within(source.name, "rollout_budget.integrations")
]
"""All but the integrations, which need the packages that they integrate with."""


def loaded_by(*modules: str) -> set[str]:
    """Import modules in a fresh interpreter and return the names of all top-level modules loaded by then."""
    imports = "".join(f"import {module}\n" for module in modules)
    program = f"import sys\n{imports}print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_whole_core_loads_no_torch_no_server_and_no_database() -> None:
    assert not loaded_by(*CORE) & set(HEAVY)


def test_the_package_alone_loads_next_to_nothing() -> None:
    """Names are loaded when they are first used, so that `import rollout_budget` costs nothing."""
    assert not loaded_by("rollout_budget") & {"numpy", "pydantic", "httpx", *HEAVY}


@pytest.mark.parametrize("module", ["trainer.config", "trainer.types", "trainer.errors"])
def test_configuration_loads_no_torch(module: str) -> None:
    assert not loaded_by(module) & {"torch", "transformers", "vllm", "fastapi", "sqlalchemy"}
