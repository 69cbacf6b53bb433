"""Examples of the main requests, shown in the OpenAPI document and sent by a test."""

from __future__ import annotations

from fastapi.openapi.models import Example

RUN = {
    "math": Example(
        summary="A run on verifiable answers, at most a million rollouts",
        value={"run_id": "math-1", "policy": "qwen3-0.6b", "limits": {"rollouts": 1_000_000}},
    )
}
PLAN = {
    "step": Example(
        summary="Eight rollouts for the best of three prompts; the third brings a prior of its own",
        value={
            "plan_id": "step-0",
            "candidates": [
                {"prompt_key": "p1", "prompt": "What is 2 + 3?"},
                {"prompt_key": "p2", "prompt": "What is 17 x 23?"},
                {"prompt_key": "p3", "prior": {"value": 0.98, "standard_error": 0.01}},
            ],
            "rollouts": 8,
        },
    )
}
OPEN = {
    "two": Example(
        summary="Two prompts; the second brings a prior of its own",
        value={
            "groups": [
                {"group_id": "step-0/p1", "prompt_key": "p1", "prompt": "What is 2 + 3?"},
                {"group_id": "step-0/p2", "prompt_key": "p2", "prior": {"value": 0.75, "standard_error": 0.1}},
            ],
            "lease_s": 900,
        },
    )
}
OBSERVE = {"one": Example(value={"groups": [{"group_id": "step-0/p1", "outcomes": [1, 0, 1, 1]}]})}
CLOSE = {"one": Example(value={"groups": [{"group_id": "step-0/p1", "used": 4, "tokens": 512}]})}
DECIDE = {
    "two": Example(
        value={
            "groups": [
                {"group_id": "a", "prior": {"value": 0.5}, "outcomes": [1, 0]},
                {"group_id": "b", "prior": {"value": 0.9}, "outcomes": [1, 1]},
            ],
            "budget": 8,
        }
    )
}
TEAM = {"capped": Example(value={"team": "research", "limits": {"rollouts_per_day": 200_000}})}
ROTATION = {"day": Example(summary="Both keys work for a day", value={"grace_s": 86_400})}
KEY = {"trainer": Example(value={"team": "research", "scope": "team", "label": "trainer", "expires_in_s": 2_592_000})}
