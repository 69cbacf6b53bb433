"""What must hold of the stack: each check returns its figure for the report, or raises `Failed` with what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import httpx

from rollout_budget.client import SyncAllocatorClient
from rollout_budget.wire import UsageQuery
from tests.compose.smoke.engine import Engine, Failed
from tests.compose.smoke.stack import COMPOSE_FILE, Stack, wait_for
from tests.compose.smoke.trainer import PROMPT, RUN, Tally

SECRETS = {
    "database": "/secrets/database/password",
    "pepper": "/secrets/pepper/pepper",
    "admin": "/secrets/admin/admin.key",
    "prior": "/secrets/prior/service.key",
}
"""What the allocator mounts; the password of Grafana is none of its business."""
JSON_LOGS = ("allocator", "prior", "migrate")
SCRAPED_S = 60.0
"""Gauges are renewed every 15 s and scraped every 15 s."""
TEAM = "smoke"
ENTRIES_PAGE = 500


def require(holds: object, wrong: str) -> None:
    """Raise unless `holds`.

    Raises:
        Failed: with `wrong`.
    """
    if not holds:
        raise Failed(wrong)


def secrets(engine: Engine) -> dict[str, str]:
    """Return the secrets that the allocator reads, by name."""
    return {name: engine.exec("allocator", "cat", path).strip() for name, path in SECRETS.items()}


def hardened(stack: Stack, known: Mapping[str, str]) -> str:
    """Users, file systems, limits, ports and environments of all containers, as the engine states them."""
    for service in stack.services:
        found = stack.engine.inspect(service)
        host, config = found["HostConfig"], found["Config"]
        require(host["ReadonlyRootfs"], f"{service}: its root file system can be written to")
        require(host["Memory"] > 0 and host["PidsLimit"], f"{service}: no limit of memory or processes")
        require(config["User"].split(":")[0] not in {"", "0", "root"}, f"{service}: runs as root")
        leaked = [name for name, value in known.items() if any(value in line for line in config["Env"] or [])]
        require(not leaked, f"{service}: its environment holds {leaked}")
        bound = [one["HostIp"] for all_of in (host["PortBindings"] or {}).values() for one in all_of or []]
        require(set(bound) <= {"127.0.0.1"}, f"{service}: is published on {bound}")
    for service in stack.lasting:
        _confined(stack.engine, service)
    return f"{len(stack.services)} containers"


def _confined(engine: Engine, service: str) -> None:
    """Raise unless the kernel says of a running service's first process what the compose file asks for."""
    status = dict(
        line.split(":", 1) for line in engine.exec(service, "cat", "/proc/1/status").splitlines() if ":" in line
    )
    require(int(status["Uid"].split()[0]) != 0, f"{service}: its process is root's")
    require(int(status["CapEff"], 16) == 0, f"{service}: has capabilities {status['CapEff'].strip()}")
    require(status["NoNewPrivs"].strip() == "1", f"{service}: may gain privileges")


def least_secrets(engine: Engine) -> str:
    """Each service sees the secrets that it needs, and no others."""
    expected = {"postgres": {"database"}, "prior": {"database", "prior"}, "allocator": set(SECRETS)}
    for service, wanted in expected.items():
        mounts = engine.inspect(service)["Mounts"]
        seen = {m["Destination"].split("/")[2] for m in mounts if m["Destination"].startswith("/secrets/")}
        require(seen == wanted, f"{service} sees the secrets {seen}, not {wanted}")
        writable = [m["Destination"] for m in mounts if m["Destination"].startswith("/secrets/") and m["RW"]]
        require(not writable, f"{service} may write to {writable}")
    return ", ".join(f"{service} {len(names)}" for service, names in expected.items())


def healthy(stack: Stack) -> str:
    """Each health check of the compose file, run in its container, succeeds."""
    for service in stack.lasting:
        command = COMPOSE_FILE["services"][service]["healthcheck"]["test"][1:]
        wait_for(f"the health check of {service}", partial(_succeeds, stack.engine, service, command), 60)
    return ", ".join(stack.lasting)


def _succeeds(engine: Engine, service: str, command: list[str]) -> bool:
    try:
        engine.exec(service, *command)
    except Failed:
        return False
    return True


def team(engine: Engine) -> str:
    """Make a team, its limits and a key by the command in the allocator's image; return the key."""

    def admin(*words: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(
            engine.exec("allocator", "rollout-budget", "admin", *words, "--key-file", SECRETS["admin"], "--json")
        )
        return answer

    admin("teams", "create", TEAM, "--rollouts", "500000")
    limits = admin("budget", "set", TEAM, "--rollouts", "1000000", "--rollouts-per-day", "900000")["limits"]
    require(limits["rollouts"] == 1_000_000, f"the limit was not set: {limits}")
    return str(admin("keys", "create", TEAM, "--label", "smoke")["token"])


def ledger(url: str, key: str, tally: Tally) -> str:
    """The ledger's usage is what the client drew, by its counters and by its entries, and nothing is held."""
    with SyncAllocatorClient(url, key) as client:
        rows = client.usage(by=("run",), query=UsageQuery(run=RUN)).rows
        budget = client.budget()
        drawn, after = 0, 0
        while page := client.entries(after=after, limit=ENTRIES_PAGE).entries:
            drawn += sum(entry.rollouts for entry in page if entry.kind in {"commit", "overage"})
            after = page[-1].entry_id
    used, held = rows[0].used, budget.usage.reserved
    require(len(rows) == 1 and used == tally.rollouts, f"booked {used} rollouts, the client drew {tally.rollouts}")
    require(drawn == tally.rollouts, f"entries add up to {drawn} rollouts, the client drew {tally.rollouts}")
    require(held == 0, f"{held} rollouts are still held")
    return f"{used:,} rollouts, {budget.usage.overage:,} of them beyond their grants; 0 held"


def metrics(url: str, tally: Tally, since: float) -> str:
    """Prometheus scrapes both services, and its figure of the budget is the ledger's; no invariant is violated.

    Only samples from `since` on, in seconds of the epoch, count: it answers with older ones for five minutes.
    """

    def value(query: str) -> float | None:
        found = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=10).json()["data"]["result"]
        return float(found[0]["value"][1]) if found else None

    def fresh(series: str) -> str:
        return f"sum({series} and timestamp({series}) >= {since:.3f})"

    wait_for("both services to be scraped", lambda: value(fresh("up")) == 2, SCRAPED_S)
    in_use = f'rollout_budget_in_use_rollouts{{team="{TEAM}"}}'
    wait_for(f"{in_use} to be {tally.rollouts}", lambda: value(fresh(in_use)) == tally.rollouts, SCRAPED_S)
    violations = value(fresh("rollout_budget_invariant_violations_total"))
    require(violations == 0, f"{violations} invariant violations")
    rules = httpx.get(f"{url}/api/v1/rules", timeout=10).json()["data"]["groups"]
    count = sum(len(group["rules"]) for group in rules)
    bad = [rule["name"] for group in rules for rule in group["rules"] if rule["health"] == "err"]
    require(count and not bad, f"of {count} rules these fail: {bad}")
    return f"sum({in_use}) = {tally.rollouts:,}; 0 violations; {count} rules"


def logs(engine: Engine, known: Mapping[str, str]) -> str:
    """Every line of our services' logs is a JSON object; no log of any service shows a secret or a prompt."""
    lines = 0
    for service in JSON_LOGS:
        for line in engine.logs(service).splitlines():
            lines += 1
            require(_is_object(line), f"{service}: logged a line that is no JSON object: {line[:300]}")
    for service in (*JSON_LOGS, "init", "postgres", "prometheus"):
        text = engine.logs(service)
        shown = [name for name, secret in {**known, "prompt": PROMPT}.items() if secret in text]
        require(not shown, f"{service}: its log shows {shown}")
        token = re.search(r"rb_[A-Za-z0-9_-]{30,}", text)
        require(token is None, f"{service}: its log shows something like a key")
    return f"{lines} lines"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
