"""Examples of every schema of the document: one story, from a team and its key to the first group closed.

A test sends the requests to a fresh allocator, in their order, and finds the answers that stand here.
"""

from __future__ import annotations

from typing import Any

from services.allocator.endpoints.examples import access, budgets, decisions, runs
from services.kit.examples import collected


def schemas() -> dict[str, Any]:
    """Return an example by the name of each schema."""
    return collected(*runs.ALL, *decisions.ALL, *budgets.ALL, *access.ALL)
