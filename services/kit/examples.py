"""Examples of the OpenAPI documents, as the types themselves: a field that is renamed is an error before it is an example.

Requests show what a caller sends, without what may be left out; answers show every field.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi.openapi.models import Example
from pydantic import BaseModel

from rollout_budget.wire import Health, Problem, Request

PROBLEM = Problem(
    title="Not Found",
    status=404,
    detail="no run 'math-2'",
    request_id="0c4e9a52-6f0a-4c1b-9d57-1f3b8c1e7a90",
    code="not-found",
)
HEALTH = Health(status="ok")


def dumped(example: BaseModel) -> Any:
    """Return an example as JSON."""
    return example.model_dump(mode="json", exclude_unset=isinstance(example, Request))


def collected(*examples: BaseModel) -> dict[str, Any]:
    """Return one example by the name of its type, for these and for all that they are made of; the first one counts."""
    found: dict[str, BaseModel] = {}
    waiting: deque[object] = deque(examples)
    while waiting:
        one = waiting.popleft()
        if isinstance(one, BaseModel):
            found.setdefault(type(one).__name__, one)
        waiting.extend(_parts(one))
    return {name: dumped(example) for name, example in found.items()}


def bodies(*examples: tuple[str, BaseModel]) -> dict[str, Example]:
    """Return bodies of a request with what each is, as FastAPI takes them."""
    return {
        f"example_{number}": Example(summary=summary, value=dumped(example))
        for number, (summary, example) in enumerate(examples, 1)
    }


def _parts(one: object) -> Iterator[object]:
    if isinstance(one, BaseModel):
        yield from (getattr(one, name) for name in type(one).model_fields)
    elif isinstance(one, Iterable) and not isinstance(one, str | bytes | dict):
        yield from one
