"""What heads and views read. Every statement here reads a bounded number of rows, however much evidence there is.

The one door of tenancy for learning is `visible_policies`; of another team's policy only `rows_of_others` and
`rows_of_others_since` read, and they read what crosses (`sharing.py`) and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Select, and_, func, select, union_all

from rollout_budget.errors import NotFound
from services.prior_api import schema
from services.prior_api.histories import cells
from services.prior_api.records import Cell, Known, Level, Policy, Public, Scores, Standing
from services.prior_api.sharing import BLOCK, foreign, released
from services.prior_api.statements.base import Statements


class Learning(Statements):
    """Statements that only read."""

    async def evidence_version(self, team: str) -> int:
        """Return how many evidence rows the team may learn from: its own, and whole blocks of the shared ones."""
        table = schema.policies
        own = select(func.coalesce(func.sum(table.c.rows), 0).label("rows")).where(table.c.team == team)
        shared = select(func.coalesce(func.sum(table.c.rows - table.c.rows % BLOCK), 0).label("rows")).where(
            table.c.scope == "shared", table.c.team != team
        )
        return sum(int(rows) for (rows,) in await self._connection.execute(union_all(own, shared)))

    async def visible_policies(self, team: str, most: int) -> list[Policy]:
        """Return policies that the team may learn from, with the rows that it sees: its own first, newest first."""
        table = schema.policies
        columns = (table.c.team, table.c.policy, table.c.scope, table.c.rows)
        newest = (table.c.created.desc(), table.c.team, table.c.policy)
        own = select(*columns).where(table.c.team == team, table.c.rows > 0).order_by(*newest).limit(most)
        found = [Policy(*row) for row in await self._connection.execute(own)]
        if len(found) < most:
            others = select(*columns).where(table.c.scope == "shared", table.c.team != team, table.c.rows >= BLOCK)
            rows = await self._connection.execute(others.order_by(*newest).limit(most - len(found)))
            found += [Policy(*row[:3], released(row[3])) for row in rows]
        return found

    async def standing(self, team: str, most: int) -> Standing:
        """Return what the team may learn from, `most` policies of it by name."""
        policies = await self.visible_policies(team, most)
        all_there = len(policies) < most
        version = sum(policy.rows for policy in policies) if all_there else await self.evidence_version(team)
        return Standing(version, tuple(policies))

    async def own_policies(self, team: str, policy: str | None = None, *, most: int | None = None) -> list[Policy]:
        """Return the team's policies in order of name, or the one named.

        Raises:
            NotFound: the team has no policy of that name.
        """
        table = schema.policies
        query = select(table.c.team, table.c.policy, table.c.scope, table.c.rows).where(table.c.team == team)
        if policy is not None:
            query = query.where(table.c.policy == policy)
        found = [Policy(*row) for row in await self._connection.execute(query.order_by(table.c.policy).limit(most))]
        if policy is not None and not found:
            raise NotFound(f"no policy {policy!r}")
        return found

    async def cells(self, owner: Policy, *, most: int) -> list[Cell]:
        """Return the newest cells of a team's own policy; of the last version that fits, those drawn by key."""
        table, names = schema.cells, schema.prompts
        query = (
            select(table.c.key, names.c.text_hash, table.c.version, table.c.successes, table.c.trials, table.c.rows)
            .select_from(table.outerjoin(names, and_(names.c.team == table.c.team, names.c.key == table.c.key)))
            .where(table.c.team == owner.team, table.c.policy == owner.policy)
            .order_by(table.c.version.desc(), table.c.draw.desc(), table.c.key.desc())
            .limit(most)
        )
        return [Cell(owner.team, owner.policy, *row) for row in await self._connection.execute(query)]

    async def rows_since(self, owner: Policy, since: int) -> list[Cell]:
        """Return rows of a team's own policy that came after its `since` first ones, as one cell each."""
        table, names = schema.evidence, schema.prompts
        columns = (table.c.key, names.c.text_hash, table.c.version, table.c.successes, table.c.trials)
        query = _after(_raw(owner, *columns), owner, since)
        rows = await self._connection.execute(query)
        return [
            Cell(owner.team, owner.policy, key, text_hash, version, successes, trials, 1)
            for key, text_hash, version, successes, trials in rows
        ]

    async def rows_of_others(self, owner: Policy, *, most: int) -> list[Cell]:
        """Return what crosses of another team's shared policy, as `visible_policies` returned it, newest versions first."""
        table = schema.evidence
        newest = (table.c.version.desc(), table.c.id.desc())
        seen = table.c.serial + 0 <= owner.rows  # the sum keeps SQLite from walking the index of serials
        rows = await self._connection.execute(_public(owner).where(seen).order_by(*newest).limit(most))
        return [foreign(owner, Public(*row)) for row in rows]

    async def rows_of_others_since(self, owner: Policy, since: int) -> list[Cell]:
        """Return what crosses of another team's shared policy and came after its `since` first rows."""
        query = _after(_public(owner), owner, since)
        return [foreign(owner, Public(*row)) for row in await self._connection.execute(query)]

    async def histories(self, team: str, policy: str, hashes: dict[str, str], keys: Sequence[str]) -> dict[str, Known]:
        """Return, by key, how many rows a policy has of a prompt and its newest cells."""
        table = schema.histories
        query = select(table.c.key, table.c.rows, table.c.recent).where(
            table.c.team == team, table.c.policy == policy, table.c.key.in_(keys)
        )
        return {
            key: Known(rows, cells(team, policy, key, hashes.get(key), data))
            for key, rows, data in await self._connection.execute(query)
        }

    async def levels(self, team: str, policy: str, *, most: int, near: int | None = None) -> list[Level]:
        """Return the sums of the `most` versions nearest to `near`, or of the newest, in order of version."""
        table = schema.versions
        columns = [table.c[name] for name in Level.__slots__]
        mine = (table.c.team == team, table.c.policy == policy)
        below = select(*columns).where(*mine).order_by(table.c.version.desc()).limit(most)
        if near is None:
            rows = list(await self._connection.execute(below))
        else:
            above = select(*columns).where(*mine, table.c.version > near).order_by(table.c.version).limit(most)
            rows = list(await self._connection.execute(below.where(table.c.version <= near)))
            rows += list(await self._connection.execute(above))
            rows = sorted(rows, key=lambda row: (abs(row.version - near), row.version))[:most]
        return sorted((Level(*row) for row in rows), key=lambda level: level.version)

    async def scores(self, team: str, policy: str, *, since: int = 0) -> list[Scores]:
        """Return how values did that had been given before their evidence came, by version and tenth of [0, 1]."""
        table = schema.scores
        query = (
            select(*(table.c[name] for name in Scores.__slots__))
            .where(table.c.team == team, table.c.policy == policy, table.c.version >= since)
            .order_by(table.c.version, table.c.bin)
        )
        return [Scores(*row) for row in await self._connection.execute(query)]

    async def newest(self, team: str, most: int) -> dict[str, tuple[Level, list[Scores]]]:
        """Return the newest version of each of the first `most` policies with its scores, in two statements."""
        levels, scores = schema.versions, schema.scores
        named = select(schema.policies.c.policy).where(schema.policies.c.team == team)
        names = named.order_by(schema.policies.c.policy).limit(most).subquery()
        inner = levels.alias()
        last = (
            select(func.max(inner.c.version))
            .where(inner.c.team == team, inner.c.policy == names.c.policy)
            .correlate(names)
            .scalar_subquery()
        )

        def of(table: Any, columns: Sequence[str]) -> Select[Any]:
            here: ColumnElement[bool] = and_(table.c.policy == names.c.policy, table.c.version == last)
            return select(names.c.policy, *(table.c[name] for name in columns)).join_from(
                names, table, and_(table.c.team == team, here)
            )

        found: dict[str, tuple[Level, list[Scores]]] = {}
        for policy, *fields in await self._connection.execute(of(levels, Level.__slots__)):
            found[policy] = Level(*fields), []
        for policy, *fields in await self._connection.execute(of(scores, Scores.__slots__)):
            found[policy][1].append(Scores(*fields))
        return found


def _raw(owner: Policy, *columns: Column[Any]) -> Select[Any]:
    """Select from the raw rows of a policy, each with its prompt's name beside it."""
    table, names = schema.evidence, schema.prompts
    return (
        select(*columns)
        .select_from(table.outerjoin(names, and_(names.c.team == table.c.team, names.c.key == table.c.key)))
        .where(table.c.team == owner.team, table.c.policy == owner.policy)
    )


def _after(query: Select[Any], owner: Policy, since: int) -> Select[Any]:
    serial = schema.evidence.c.serial
    return query.where(serial > since, serial <= owner.rows).order_by(serial)


def _public(owner: Policy) -> Select[Any]:
    table, names = schema.evidence, schema.prompts
    columns = (table.c.version, names.c.text_hash, table.c.trials, table.c.public, table.c.blur, table.c.serial)
    return _raw(owner, *columns).where(table.c.public.is_not(None))
