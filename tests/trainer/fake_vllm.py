"""The routes of a vLLM server that the trainer uses, in this process: for tests in milliseconds."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from trainer.rollouts.vllm import VllmServer

Hook = Callable[[dict[str, Any]], Awaitable[httpx.Response | None]]


class FakeVllm:
    """A server whose completions repeat their prompt; `failures` and `hooks` by path bend it.

    Attributes:
        version: the label that /weight_info shows.
        weights: the directory that was loaded last.
        paths: every request, in order.
        finished: completions by finish reason, as vLLM counts them.
        failures: answers to give instead, one per request, first to last.
        hooks: awaited before a request is answered; may answer itself.
    """

    def __init__(self, version: str = "0") -> None:
        self.version = version
        self.weights: str | None = None
        self.updating = False
        self.paused = False
        self.paths: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.finished: Counter[str] = Counter()
        self.failures: defaultdict[str, list[int | Exception]] = defaultdict(list)
        self.hooks: dict[str, Hook] = {}
        self.reset_refusals = 0

    def client(self, url: str = "http://fake", **options: Any) -> VllmServer:
        return VllmServer(url, transport=httpx.MockTransport(self.handle), **options)

    async def handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.paths.append(path)
        body = json.loads(request.content) if request.content else {}
        await asyncio.sleep(0)
        if path in self.hooks and (answer := await self.hooks[path](body)) is not None:
            return answer
        if self.failures[path]:
            failure = self.failures[path].pop(0)
            self.updating &= path != "/update_weights"  # a failed one ends the update, as in vLLM
            if isinstance(failure, Exception):
                raise failure
            return httpx.Response(failure, text="injected")
        return self.answer(path, body)

    def answer(self, path: str, body: dict[str, Any]) -> httpx.Response:
        if path == "/v1/completions":
            self.bodies.append(body)
            return httpx.Response(200, json={"choices": self.choices(body)})
        if path == "/weight_info":
            return httpx.Response(200, json={"weight_version": self.version})
        if path == "/metrics":
            return httpx.Response(200, text=self.metrics())
        if path == "/reset_prefix_cache":
            self.reset_refusals -= 1
            return httpx.Response(200, json={"success": self.reset_refusals < 0})
        return self.update(path, body)

    def update(self, path: str, body: dict[str, Any]) -> httpx.Response:
        if path in {"/pause", "/resume"}:
            self.paused = path == "/pause"
        elif path == "/update_weight_version":
            self.version = body["new_version"]
        elif path == "/start_weight_update":
            if self.updating:
                return httpx.Response(500, text="a weight update is already active")
            self.updating = True
        elif path == "/update_weights":
            if not self.updating or "path" not in body["update_info"]:
                self.updating = False
                return httpx.Response(500, text="no update, or no path")
            self.weights = body["update_info"]["path"]
        elif path == "/finish_weight_update":
            self.updating, self.version = False, body["weight_version"]
        return httpx.Response(200, json={})

    def choices(self, body: dict[str, Any], reason: str = "stop") -> list[dict[str, Any]]:
        self.finished[reason] += len(body["prompt"]) * body["n"]
        return [
            {
                "index": place * body["n"] + sample,
                "text": "".join(map(str, prompt)),
                "token_ids": prompt,
                "logprobs": {"token_logprobs": [-0.5] * len(prompt)},
                "finish_reason": reason,
            }
            for place, prompt in enumerate(body["prompt"])
            for sample in range(body["n"])
        ][::-1]

    def metrics(self) -> str:
        rows = [
            f'vllm:request_success_total{{engine="0",finished_reason="{reason}",model_name="policy"}} {float(count)}'
            for reason, count in self.finished.items()
        ]
        return "# HELP vllm:request_success_total x\n" + "\n".join(rows)
