"""Which rows a fit learns from: a bounded number, however much evidence there is.

Own policies come first: up to half of the room is theirs before shared ones get any, and the other half where those do
not need it. Within each half every policy gets an equal part, and what one does not need goes to the rest.
Of a policy the newest versions enter; of the last version that fits, the prompts that a hash draws, which is the same
draw for all versions and policies, so that rows cut off here are of the prompts cut off there.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.prior_api.records import Cell, Policy, Standing
from services.prior_api.statements.learning import Learning


async def rows_to_learn(transaction: Learning, team: str, standing: Standing, most: int) -> list[Cell]:
    """Read the rows of a fit."""
    cells: list[Cell] = []
    for policy, part in parts(team, standing.policies, most):
        if policy.team == team:
            cells += await transaction.cells(policy, most=part)
        else:
            cells += await transaction.rows_of_others(policy, most=part)
    return cells


async def rows_to_append(
    transaction: Learning, team: str, before: Standing, now: Standing, most: int
) -> list[Cell] | None:
    """Read the rows that came between two standings; None if they are more than `most`."""
    seen = {(policy.team, policy.policy): policy.rows for policy in before.policies}
    cells: list[Cell] = []
    for policy in now.policies:
        since = seen.get((policy.team, policy.policy), 0)
        if policy.rows - since > most - len(cells):
            return None
        if policy.rows > since:
            read = transaction.rows_since if policy.team == team else transaction.rows_of_others_since
            cells += await read(policy, since)
    return cells


def parts(team: str, policies: Sequence[Policy], most: int) -> list[tuple[Policy, int]]:
    """Share out `most` rows among a team's own policies and others."""
    own = [policy for policy in policies if policy.team == team]
    others = [policy for policy in policies if policy.team != team]
    need = sum(policy.rows for policy in own)
    shares = share(others, most - min(need, most // 2))
    return share(own, most - sum(part for _, part in shares)) + shares


def share(policies: Sequence[Policy], most: int) -> list[tuple[Policy, int]]:
    """Share out `most` rows: every policy gets an equal part, and what one does not need goes to the others."""
    shares: list[tuple[Policy, int]] = []
    left = most
    for place, policy in enumerate(sorted(policies, key=lambda policy: policy.rows)):
        part = min(policy.rows, left // (len(policies) - place))
        shares.append((policy, part))
        left -= part
    return shares
