"""Evidence: raw rows for good, and in the same transaction the sums that requests read.

Writers of one policy are ordered by a lock on the policy's row, so that comparing, counting and adding up see no other
writer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select, update

from rollout_budget.errors import Conflict
from rollout_budget.wire import EvidenceRow
from services.kit.session import insert
from services.prior_api import schema, sharing
from services.prior_api.histories import History, draw, exact
from services.prior_api.quality import levels_of, scores_of
from services.prior_api.records import Level, Policy, Scores
from services.prior_api.statements.base import Statements


class Evidence(Statements):
    """Statements that add evidence and given values."""

    async def lock_policy(self, team: str, policy: str, scope: str | None, now: float) -> Policy:
        """Make the policy if it is new (private, if None), and hold its lock until the transaction ends.

        Raises:
            Conflict: the policy has another scope than is stated.
        """
        table = schema.policies
        new = {"team": team, "policy": policy, "scope": scope or "private", "rows": 0, "created": now}
        await self._add_new(table, [new])
        query = select(table.c.scope, table.c.rows).where(table.c.team == team, table.c.policy == policy)
        stated, rows = (await self._connection.execute(query.with_for_update())).one()
        if scope not in (None, stated):
            raise Conflict(f"policy {policy!r} was first stated as {stated}, not {scope}")
        return Policy(team, policy, stated, rows)

    async def add_evidence(
        self, owner: Policy, rows: Sequence[EvidenceRow], *, epsilon: float = sharing.EPSILON
    ) -> list[EvidenceRow]:
        """Append those rows that are new, add them to all sums, and return them. The policy's lock is held.

        Args:
            owner: as `lock_policy` returned it.
            rows: with distinct ids.
            epsilon: of the noise with which rows of a shared policy cross to other teams.

        Raises:
            Conflict: an id is there with another body.
        """
        new = await self._unknown(owner, rows)
        if new:
            given = await self._given(owner, new)
            await self._append(owner, new, given, epsilon)
            await self.add_cells(owner, new)
            await self.add_histories(owner, new)
            await self._upsert(
                schema.versions, [_place(owner) | _fields(level) for level in levels_of(new)], add=Level.__slots__[1:]
            )
            await self.add_scores(owner, scores_of(new, given))
        return new

    async def _unknown(self, owner: Policy, rows: Sequence[EvidenceRow]) -> list[EvidenceRow]:
        table = schema.evidence
        query = select(table.c.id, table.c.key, table.c.version, table.c.successes, table.c.trials).where(
            table.c.team == owner.team, table.c.policy == owner.policy, table.c.id.in_([row.id for row in rows])
        )
        known = {row[0]: tuple(row) for row in await self._connection.execute(query)}
        for row in rows:
            if row.id in known and known[row.id] != (row.id, row.key, row.version, row.successes, row.trials):
                raise Conflict(f"evidence id {row.id!r} was used before with another body")
        return sorted((row for row in rows if row.id not in known), key=lambda row: row.id)

    async def _append(
        self, owner: Policy, rows: Sequence[EvidenceRow], given: Mapping[tuple[int, str], float], epsilon: float
    ) -> None:
        shared = owner.scope == "shared"
        blur = sharing.variance(epsilon) if shared else None
        bodies = [
            {
                "team": owner.team,
                "policy": owner.policy,
                "id": row.id,
                "key": row.key,
                "version": row.version,
                "successes": row.successes,
                "trials": row.trials,
                "given": given.get((row.version, row.key)),
                "serial": owner.rows + place,
                "public": sharing.noisy(row.successes, epsilon) if shared else None,
                "blur": blur,
            }
            for place, row in enumerate(rows, 1)
        ]
        await self._connection.execute(insert(self._connection, schema.evidence), bodies)
        table = schema.policies
        counter = update(table).where(table.c.team == owner.team, table.c.policy == owner.policy)
        await self._connection.execute(counter.values(rows=owner.rows + len(rows)))

    async def _given(self, owner: Policy, rows: Sequence[EvidenceRow]) -> dict[tuple[int, str], float]:
        table = schema.given
        query = select(table.c.version, table.c.key, table.c.value).where(
            table.c.team == owner.team,
            table.c.policy == owner.policy,
            table.c.version.in_(sorted({row.version for row in rows})),
            table.c.key.in_(sorted({row.key for row in rows})),
        )
        return {(version, key): value for version, key, value in await self._connection.execute(query)}

    async def add_cells(self, owner: Policy, rows: Sequence[EvidenceRow]) -> None:
        """Add rows to the cells of their prompts and versions."""
        sums: dict[tuple[int, str], list[float]] = defaultdict(lambda: [0.0, 0, 0])
        for row in rows:
            cell = sums[row.version, row.key]
            cell[0] += exact(row.successes)
            cell[1] += row.trials
            cell[2] += 1
        cells = [
            _place(owner)
            | {"version": version, "draw": draw(key), "key": key}
            | dict(zip(("successes", "trials", "rows"), cell, strict=True))
            for (version, key), cell in sorted(sums.items())
        ]
        await self._upsert(schema.cells, cells, add=("successes", "trials", "rows"))

    async def add_histories(self, owner: Policy, rows: Sequence[EvidenceRow]) -> None:
        """Add rows to the histories of their prompts."""
        by_key: dict[str, list[EvidenceRow]] = defaultdict(list)
        for row in rows:
            by_key[row.key].append(row)
        table = schema.histories
        query = select(table.c.key, table.c.rows, table.c.recent).where(
            table.c.team == owner.team, table.c.policy == owner.policy, table.c.key.in_(sorted(by_key))
        )
        known = {key: History.unpack(rows, data) for key, rows, data in await self._connection.execute(query)}
        histories = {key: known.get(key, History()).add(by_key[key]) for key in sorted(by_key)}
        packed = [
            _place(owner) | {"key": key, "rows": history.rows, "recent": history.pack()}
            for key, history in histories.items()
        ]
        await self._upsert(table, packed, replace=("rows", "recent"))

    async def add_scores(self, owner: Policy, scores: Sequence[Scores]) -> None:
        """Add to how the policy's values did."""
        rows = [_place(owner) | _fields(score) for score in scores]
        await self._upsert(schema.scores, rows, add=Scores.__slots__[2:])

    async def give(self, team: str, policy: str, version: int, values: Mapping[str, float]) -> None:
        """Remember the value last given for each key, to be scored when evidence comes."""
        place = {"team": team, "policy": policy, "version": version}
        rows = [place | {"key": key, "value": values[key]} for key in sorted(values)]
        await self._upsert(schema.given, rows, replace=("value",))


def _place(owner: Policy) -> dict[str, Any]:
    return {"team": owner.team, "policy": owner.policy}


def _fields(record: Level | Scores) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}
