"""REST types of a run's limits, and of what limits count."""

from __future__ import annotations

from pydantic import Field

from rollout_budget.wire.common import (
    Count,
    LimitMode,
    NonNegative,
    Request,
    RolloutSeconds,
    RolloutTokens,
    Seconds,
    WarnAt,
    Wire,
)


class RunLimits(Request):
    """A run's limits; null means no limit of its own (the team's still holds).

    Tokens and GPU-seconds are known only when a group is closed. Where `tokens_per_rollout` or `gpu_seconds_per_rollout`
    say what one rollout uses at most, each grant holds as much until it is settled, and no limit is passed as long as
    that is true; what goes beyond is booked as overage. Where they do not, grants stop once a limit is reached.
    """

    rollouts: Count | None = None
    rollouts_per_step: Count | None = None
    tokens: Count | None = None
    tokens_per_step: Count | None = None
    gpu_seconds: Seconds | None = None
    gpu_seconds_per_step: Seconds | None = None
    tokens_per_rollout: RolloutTokens | None = None
    gpu_seconds_per_rollout: RolloutSeconds | None = None
    warn_at: WarnAt = Field(default=0.8, description="Share of a limit from which on answers warn of it.")
    mode: LimitMode = Field(
        default="enforce", description="`shadow` refuses nothing and counts what it would have refused."
    )


class RolloutCounts(Wire):
    """Rollouts, tokens and GPU-seconds of a run, a team, a policy or a period.

    `extra` of what was granted came after its group's first wave; `shadow_refused` was granted though a limit in shadow
    mode would have refused it. Tokens and seconds are what was used; of these, `..._overage` is what exceeded what was
    held for it. `..._reserved` is held for rollouts under way, where a run declares what one rollout uses.
    """

    granted: Count = 0
    reserved: Count = 0
    committed: Count = 0
    released: Count = 0
    expired: Count = 0
    refused: Count = 0
    overage: Count = 0
    groups_closed: Count = 0
    saved: int = Field(default=0, description="reference group size x closed groups - committed - overage.")
    tokens: Count = 0
    seconds: NonNegative = 0.0
    extra: Count = 0
    shadow_refused: Count = 0
    tokens_reserved: Count = 0
    tokens_overage: Count = 0
    seconds_reserved: NonNegative = 0.0
    seconds_overage: NonNegative = 0.0
