"""Fixtures of the whole suite: one real vLLM server for every test that needs one.

Owns how tests are dealt to processes (`pytest -n 2 --dist loadgroup`, as `make test` does): those that need the vLLM server
stay together, since a second one would cost half a minute and 1.5 GB, and the tests of a file, which share databases.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.vllm_server import vllm, vllm_session

__all__ = ["vllm", "vllm_session"]

settings.register_profile("patient", deadline=None)  # speed belongs in benchmarks; a busy machine is no failure
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name the group of each test; a test of the server that starts late would end last, so these come first."""
    for item in items:
        group = "vllm" if item.get_closest_marker("vllm") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("vllm") is None)


@pytest.fixture(autouse=True)
def logging_stays_as_it_was() -> Iterator[None]:
    """A test that silences the process, or leaves a handler behind, would change what later ones find in the log."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    assert logging.root.manager.disable == logging.NOTSET
    for handler in root.handlers:
        if handler not in before and not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
