"""A whole training loop on numpy and plain httpx: a policy learns sums; the allocator says how often to try each.

Set ROLLOUT_BUDGET_URL and ROLLOUT_BUDGET_KEY, and run it. While the allocator is away it trains on, and settles later.
"""

import contextlib
import os
import time
from typing import Any

import httpx
import numpy as np

RUN, STEPS, ALONE = f"sums-{time.time_ns()}", 40, 4  # ALONE: tries for each sum without the allocator
RATE, PAUSES_S, ANSWERS = 0.5, (0.1, 0.3, 0.0), 9  # of learning; after each call that failed; 0 to 8
KEY = {"Authorization": f"Bearer {os.environ['ROLLOUT_BUDGET_KEY']}"}
http = httpx.Client(base_url=os.environ["ROLLOUT_BUDGET_URL"], headers=KEY, timeout=5.0)
random = np.random.default_rng(0)
sums = {f"{a}+{b}": a + b for a in range(5) for b in range(5)}  # prompts and what is right
weights = np.zeros((len(sums), ANSWERS))  # the policy: a softmax over the answers to each sum
late: list[tuple[Any, Any]] = []  # what the allocator has yet to hear: how groups open, and how they close


def ask(call: str, groups: list[Any]) -> list[Any] | None:
    """Return the answer for each group, None while the allocator is away; the same call twice has one effect."""
    for pause_s in PAUSES_S:
        with contextlib.suppress(httpx.TransportError):
            answer = http.post(f"/v1/runs/{RUN}/groups/{call}", json={"groups": groups})
            if answer.is_success or not answer.json()["retryable"]:
                return list(answer.raise_for_status().json()["groups"])
        time.sleep(pause_s)
    return None


http.post("/v1/runs", json={"run_id": RUN, "policy": "sums", "limits": {"rollouts": 20_000}}).raise_for_status()
for step in range(STEPS):
    opens = [{"group_id": f"{step}:{k}", "prompt_key": k, "prompt": f"{k}=", "policy_version": step} for k in sums]
    opened = None if late else ask("open", opens)
    wants = [one["grant"] for one in opened] if opened else [ALONE] * len(sums)
    chances = np.exp(weights) / np.exp(weights).sum(axis=1, keepdims=True)
    drawn: list[list[int]] = [[] for _ in sums]
    while any(wants):
        for group, want, chance in zip(drawn, wants, chances, strict=True):
            group.extend(random.choice(ANSWERS, size=want, p=chance).tolist())
        right = [[float(answer == sums[key]) for answer in group] for group, key in zip(drawn, sums, strict=True)]
        reports = [{"group_id": one["group_id"], "outcomes": o} for one, o in zip(opens, right, strict=True)]
        said = ask("observe", reports) if opened else None
        wants = [one["more"] for one in said] if said else [0] * len(sums)
        advantages = [one["advantages"] for one in said] if said else [np.array(o) - np.mean(o) for o in right]
    if not any(drawn):
        break  # the budget is gone: what was refused is not drawn
    for number, group in enumerate(drawn):
        for answer, advantage in zip(group, advantages[number], strict=True):
            weights[number] += RATE * advantage * (np.eye(ANSWERS)[answer] - chances[number])
    late.append((opens, [report | {"used": len(group)} for report, group in zip(reports, drawn, strict=True)]))
    while late and (opened or ask("open", late[0][0])) and ask("close", late[0][1]):
        late.pop(0)  # at once as a rule; after an outage the oldest first, what was drawn beyond a grant as overage
    accuracy = chances[range(len(sums)), list(sums.values())].mean()
    print(f"step {step}: accuracy {accuracy:.3f}, {sum(map(len, drawn))} rollouts{'' if said else ' alone'}")
