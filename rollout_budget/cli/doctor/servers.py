"""vLLM servers: do they answer, which version, and can the trainer bring them new weights (docs/weights.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx

from rollout_budget.cli.doctor.report import Check, fail, ok, warn
from rollout_budget.cli.doctor.software import VLLM

TIMEOUT_S = 10.0
"""Longest wait for one answer: a busy engine can hold its server up for seconds."""
INFO_S = 60.0
"""Longest wait for the server's own settings, for which vLLM looks at the whole machine once."""
IN_PLACE = frozenset(
    {"/pause", "/resume", "/abort_requests", "/weight_info", "/update_weight_version", "/reset_prefix_cache"}
    | {"/start_weight_update", "/update_weights", "/finish_weight_update"}
)
"""Routes of an update in place; they are there in development mode alone."""
ADAPTERS = "/v1/load_lora_adapter"
MODEL = "policy"
"""Name under which the trainer asks for its model."""


def checks(url: str) -> Iterator[Check]:
    """Look at one server."""
    name = f"vllm {url.removeprefix('http://')}"
    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
            yield from _of_server(name, client)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        yield fail(name, f"no answer: {error}", "start it, or correct --vllm; a start takes half a minute and more")


def _of_server(name: str, client: httpx.Client) -> Iterator[Check]:
    health = client.get("/health")
    version = _json(client, "/version").get("version")
    if version is None:
        yield fail(name, "what answers there is no vLLM server", "name a vLLM server's address, without /v1")
        return
    if health.status_code != httpx.codes.OK:
        yield fail(
            name,
            f"vLLM {version}, not healthy ({health.status_code})",
            "its engine has died: see its log, restart it",
        )
        return
    yield _version(name, str(version))
    yield _model(name, client)
    yield from _weights(name, client)


def _version(name: str, version: str) -> Check:
    if version.startswith(f"{VLLM}."):
        return ok(name, f"vLLM {version}, healthy")
    return warn(name, f"vLLM {version}, healthy", f"the trainer is written for {VLLM}: its weight updates may not work")


def _model(name: str, client: httpx.Client) -> Check:
    models = [str(one.get("id")) for one in _json(client, "/v1/models").get("data", [])]
    if MODEL in models:
        return ok(name, f"serves {', '.join(models)}")
    return warn(
        name,
        f"serves {', '.join(models) or 'no model'}",
        f"the trainer asks for {MODEL!r}: start it with --served-model-name {MODEL}",
    )


def _weights(name: str, client: httpx.Client) -> Iterator[Check]:
    """Say which ways of new weights are open; one that is enough for the trainer."""
    routes = set(_json(client, "/openapi.json").get("paths", {}))
    in_place, adapters = routes >= IN_PLACE, ADAPTERS in routes
    if not in_place:
        if adapters:
            yield ok(
                name,
                "takes new weights as adapters (weights.backend = lora); in place not, without VLLM_SERVER_DEV_MODE=1",
            )
        else:
            do = "restart it with VLLM_SERVER_DEV_MODE=1 and the flags of docs/weights.md, on a network that only you reach"
            yield fail(name, f"takes no new weights: {len(IN_PLACE - routes)} routes are missing", do)
        return
    config = _config(client)
    if config is None:
        yield warn(name, "has the routes of weight updates, but does not show its settings", "train one step to see")
        return
    backend = (config.get("weight_transfer_config") or {}).get("backend")
    ways = ([f"by {backend} (weights.backend = {_ours(backend)})"] if backend else []) + (
        ["as adapters (lora)"] if adapters and config.get("lora_config") else []
    )
    if ways:
        yield ok(name, f"takes new weights {' and '.join(ways)}")
    else:
        do = "restart it with --weight-transfer-config and --worker-extension-cls as docs/weights.md says"
        yield fail(name, "has the routes of weight updates, but no engine for them", do)


def _ours(backend: str) -> str:
    return "filesystem" if backend == "fs" else backend


def _config(client: httpx.Client) -> dict[str, Any] | None:
    try:
        answer = client.get("/server_info", params={"config_format": "json"}, timeout=INFO_S)
        found = answer.json()["vllm_config"] if answer.is_success else None
    except (httpx.HTTPError, ValueError, KeyError):
        return None
    return found if isinstance(found, dict) else None


def _json(client: httpx.Client, path: str) -> dict[str, Any]:
    """Return an answer that is a JSON object, an empty one for anything else."""
    answer = client.get(path)
    try:
        found = answer.json() if answer.is_success else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
