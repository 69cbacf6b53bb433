"""Every call of every client, with the request that it must become and the answer that it gets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rollout_budget.client import (
    AdminClient,
    AllocatorClient,
    PriorClient,
    SyncAdminClient,
    SyncAllocatorClient,
    SyncPriorClient,
)
from rollout_budget.wire import (
    BaselinesAnswer,
    BaselinesRequest,
    BudgetView,
    ChangesAnswer,
    CloseAnswer,
    CloseGroup,
    CloseRequest,
    DecideAnswer,
    DecideGroup,
    DecideRequest,
    EntriesAnswer,
    EvidenceAnswer,
    EvidenceRequest,
    EvidenceRow,
    HeartbeatAnswer,
    Key,
    KeyCreate,
    KeyRotate,
    KeysAnswer,
    KeySecret,
    ObserveAnswer,
    ObserveGroup,
    ObserveRequest,
    OpenAnswer,
    OpenGroup,
    OpenRequest,
    PlanAnswer,
    PlanCandidate,
    PlanRequest,
    PoliciesAnswer,
    PolicyView,
    PriorQuality,
    Prompt,
    PromptsAnswer,
    PromptsRequest,
    ReservationView,
    RolloutCounts,
    Run,
    RunPatch,
    RunsAnswer,
    RunSpec,
    Team,
    TeamCreate,
    TeamLimits,
    TeamPatch,
    TeamsAnswer,
    UsageAnswer,
    ValuesAnswer,
    ValuesRequest,
    Wire,
)

SPEC = RunSpec(run_id="a/b", policy="p")
RUN = Run(spec=SPEC, status="running", usage=RolloutCounts(), prior=PriorQuality(groups=0))
OPEN = OpenRequest(groups=[OpenGroup(group_id="g", prompt_key="k")])
PLAN = PlanRequest(plan_id="p", candidates=[PlanCandidate(prompt_key="k")], groups=1)
OBSERVE = ObserveRequest(groups=[ObserveGroup(group_id="g", outcomes=[1.0])])
CLOSE = CloseRequest(groups=[CloseGroup(group_id="g", used=1)])
ASK = BaselinesRequest(group_ids=["g"])
DECIDE = DecideRequest(groups=[DecideGroup(group_id="g")])
BUDGET = BudgetView(team="t", limits=TeamLimits(), usage=RolloutCounts(), available=None)
RESERVATION = ReservationView(reservation_id="a%2Fb/g/0/1", run_id="a/b", rollouts=4, used=0, state="reserved")
VALUES = ValuesRequest(policy="p", version=1, prompts=[Prompt(key="k", text="?")])
EVIDENCE = EvidenceRequest(rows=[EvidenceRow(id="e", key="k", version=1, successes=1.0, trials=2)])
PROMPTS = PromptsRequest(prompts=[Prompt(key="k", text="?")])
POLICY = PolicyView(policy="p/q", scope="private", rows=0, versions=[])
KEY = Key(
    key_id="id",
    team="t",
    scope="team",
    label=None,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    expires_at=None,
    revoked=False,
    status="active",
)
TEAM = Team(team="t", name=None, created_at=KEY.created_at, limits=TeamLimits())
SECRET = KeySecret(**KEY.model_dump(), token="rb_secret")


@dataclass(frozen=True)
class Route:
    """A call (`name`, `args` of `client`) and what it must be on the wire."""

    client: tuple[type[Any], type[Any]]
    name: str
    args: tuple[Any, ...]
    method: str
    target: str
    answer: Wire

    def __str__(self) -> str:
        return self.name

    def call(self, client: Any) -> Any:
        """Make the call; the result of an asynchronous client is to be awaited."""
        method: Callable[..., Awaitable[Wire] | Wire] = getattr(client, self.name)
        return method(*self.args)


ALLOCATOR = (AllocatorClient, SyncAllocatorClient)
ADMIN = (AdminClient, SyncAdminClient)
PRIOR = (PriorClient, SyncPriorClient)

ROUTES = [
    Route(ALLOCATOR, "create_run", (SPEC,), "POST", "/v1/runs", RUN),
    Route(ALLOCATOR, "runs", (), "GET", "/v1/runs?limit=100", RunsAnswer(runs=[])),
    Route(ALLOCATOR, "get_run", ("a/b",), "GET", "/v1/runs/a%2Fb", RUN),
    Route(ALLOCATOR, "patch_run", ("a/b", RunPatch(price=0.1)), "PATCH", "/v1/runs/a%2Fb", RUN),
    Route(ALLOCATOR, "finish_run", ("a/b",), "POST", "/v1/runs/a%2Fb/finish", RUN),
    Route(ALLOCATOR, "plan", ("a/b", PLAN), "POST", "/v1/runs/a%2Fb/plan", PlanAnswer(plan_id="p", candidates=1, prompts=[])),
    Route(ALLOCATOR, "open", ("a/b", OPEN), "POST", "/v1/runs/a%2Fb/groups/open", OpenAnswer(groups=[])),
    Route(ALLOCATOR, "observe", ("a/b", OBSERVE), "POST", "/v1/runs/a%2Fb/groups/observe", ObserveAnswer(groups=[])),
    Route(ALLOCATOR, "close", ("a/b", CLOSE), "POST", "/v1/runs/a%2Fb/groups/close", CloseAnswer(groups=[])),
    Route(ALLOCATOR, "heartbeat", ("a/b",), "POST", "/v1/runs/a%2Fb/heartbeat", HeartbeatAnswer(renewed=1)),
    Route(ALLOCATOR, "baselines", ("a/b", ASK), "POST", "/v1/runs/a%2Fb/baselines", BaselinesAnswer(groups=[])),
    Route(ALLOCATOR, "decide", (DECIDE,), "POST", "/v1/decide", DecideAnswer(groups=[], prior=PriorQuality(groups=0))),
    Route(ALLOCATOR, "budget", (), "GET", "/v1/budget", BUDGET),
    Route(ALLOCATOR, "usage", (("run", "day"),), "GET", "/v1/usage?by=run%2Cday", UsageAnswer(rows=[])),
    Route(ALLOCATOR, "entries", ("overage", "r"), "GET", "/v1/entries?kind=overage&run=r&after=0&limit=100", EntriesAnswer(entries=[], next=None)),
    Route(ALLOCATOR, "reservation", ("a%2Fb/g/0/1",), "GET", "/v1/reservations/a%252Fb/g/0/1", RESERVATION),
    Route(ADMIN, "create_team", (TeamCreate(team="t"),), "POST", "/v1/admin/teams", TEAM),
    Route(ADMIN, "list_teams", (), "GET", "/v1/admin/teams?limit=100", TeamsAnswer(teams=[])),
    Route(ADMIN, "show_team", ("t/u",), "GET", "/v1/admin/teams/t%2Fu", TEAM),
    Route(ADMIN, "rename_team", ("t/u", TeamPatch(name="n")), "PATCH", "/v1/admin/teams/t%2Fu", TEAM),
    Route(ADMIN, "close_team", ("t/u",), "POST", "/v1/admin/teams/t%2Fu/close", TEAM),
    Route(ADMIN, "reopen_team", ("t/u",), "POST", "/v1/admin/teams/t%2Fu/reopen", TEAM),
    Route(ADMIN, "show_budget", ("t/u",), "GET", "/v1/admin/budgets/t%2Fu", BUDGET),
    Route(ADMIN, "set_budget", ("t/u", TeamLimits(rollouts=9)), "PUT", "/v1/admin/budgets/t%2Fu", BUDGET),
    Route(ADMIN, "show_usage", ("t/u", ("day",)), "GET", "/v1/admin/usage?by=day&team=t%2Fu", UsageAnswer(rows=[])),
    Route(ADMIN, "create_key", (KeyCreate(team="t"),), "POST", "/v1/admin/keys", SECRET),
    Route(ADMIN, "list_keys", (), "GET", "/v1/admin/keys?limit=100", KeysAnswer(keys=[KEY])),
    Route(ADMIN, "rotate_key", ("id", KeyRotate(grace_s=0.0)), "POST", "/v1/admin/keys/id/rotate", SECRET),
    Route(ADMIN, "list_changes", (), "GET", "/v1/admin/changes?after=0&limit=100", ChangesAnswer(changes=[])),
    Route(ALLOCATOR, "changes", (), "GET", "/v1/changes?after=0&limit=100", ChangesAnswer(changes=[])),
    Route(ADMIN, "revoke_key", ("id",), "DELETE", "/v1/admin/keys/id", KEY),
    Route(PRIOR, "values", (VALUES,), "POST", "/v1/values", ValuesAnswer(values=[], model="gp", model_version="1", evidence_version=0)),
    Route(PRIOR, "add_evidence", ("p/q", EVIDENCE), "POST", "/v1/policies/p%2Fq/evidence", EvidenceAnswer(stored=1, repeated=0, evidence_version=1)),
    Route(PRIOR, "policies", (), "GET", "/v1/policies", PoliciesAnswer(policies=[])),
    Route(PRIOR, "policy", ("p/q",), "GET", "/v1/policies/p%2Fq", POLICY),
    Route(PRIOR, "register_prompts", (PROMPTS,), "POST", "/v1/prompts", PromptsAnswer(registered=1, encoded=0)),
]  # fmt: skip
