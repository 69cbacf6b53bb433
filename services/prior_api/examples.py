"""Examples of requests for the OpenAPI document: one training step of a policy that adds numbers."""

from __future__ import annotations

from typing import Any

from fastapi import Body

VALUES: Any = Body(
    openapi_examples={
        "step": {
            "summary": "Values of two prompts before their rollouts; texts are needed once per key",
            "value": {
                "policy": "adder-1",
                "version": 12,
                "prompts": [{"key": "sum-17", "text": "What is 17 + 25?"}, {"key": "sum-18"}],
            },
        }
    }
)
EVIDENCE: Any = Body(
    openapi_examples={
        "step": {
            "summary": "Outcomes of two groups of four rollouts",
            "value": {
                "rows": [
                    {"id": "run-1/12/sum-17", "key": "sum-17", "version": 12, "successes": 3, "trials": 4},
                    {"id": "run-1/12/sum-18", "key": "sum-18", "version": 12, "successes": 0, "trials": 4},
                ]
            },
        }
    }
)
PROMPTS: Any = Body(
    openapi_examples={
        "ahead": {
            "summary": "A text registered before training starts",
            "value": {"prompts": [{"key": "sum-17", "text": "What is 17 + 25?"}]},
        }
    }
)
