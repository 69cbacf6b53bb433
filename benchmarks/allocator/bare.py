"""`python -m benchmarks.allocator.bare PORT ANSWERS`: what FastAPI itself costs for the same bodies.

The routes parse the same requests and return recorded answers of the real service through the same response models, under
the same server. No key, no database, no decision: whatever the service takes beyond this is its own.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from fastapi import FastAPI
from pydantic import BaseModel

from rollout_budget.wire import CloseAnswer, CloseRequest, ObserveAnswer, ObserveRequest, OpenAnswer, OpenRequest
from services.kit import serve

Answer = TypeVar("Answer", bound=BaseModel)


class Recorded:
    """Answers of one kind, by how many groups they are about, each in turn."""

    def __init__(self, model: type[Answer], bodies: list[str]) -> None:
        sized: defaultdict[int, list[BaseModel]] = defaultdict(list)
        for body in bodies:
            answer = model.model_validate_json(body)
            sized[len(answer.model_dump()["groups"])].append(answer)
        self._turns: dict[int, Iterator[BaseModel]] = {size: itertools.cycle(some) for size, some in sized.items()}

    def next(self, groups: int) -> BaseModel:
        """Return the next answer about so many groups."""
        return next(self._turns[groups])


def create_app(recorded: dict[str, list[str]]) -> FastAPI:
    """Return the bare application."""
    app = FastAPI(title="bare")
    opened, observed, closed = (
        Recorded(model, recorded[name])
        for name, model in (("open", OpenAnswer), ("observe", ObserveAnswer), ("close", CloseAnswer))
    )

    @app.post("/v1/runs/{run_id}/groups/open", response_model=OpenAnswer)
    async def open_groups(run_id: str, request: OpenRequest) -> BaseModel:  # noqa: ARG001 - parsed, as by the service
        return opened.next(len(request.groups))

    @app.post("/v1/runs/{run_id}/groups/observe", response_model=ObserveAnswer)
    async def observe_groups(run_id: str, request: ObserveRequest) -> BaseModel:  # noqa: ARG001 - as above
        return observed.next(len(request.groups))

    @app.post("/v1/runs/{run_id}/groups/close", response_model=CloseAnswer)
    async def close_groups(run_id: str, request: CloseRequest) -> BaseModel:  # noqa: ARG001 - as above
        return closed.next(len(request.groups))

    return app


def main() -> None:
    """Serve until terminated."""
    recorded = json.loads(Path(sys.argv[2]).read_text("utf-8"))
    serve.run(create_app(recorded), host="127.0.0.1", port=int(sys.argv[1]), balanced=False)


if __name__ == "__main__":
    main()
