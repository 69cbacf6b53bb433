"""All SQL of the prior service, on SQLite and PostgreSQL. One `begin()` per request: it commits at its end or not at all.

Writers of one policy are ordered by a lock on the policy's row, so that comparing, counting and appending within one
transaction see no other writer; SQLite orders all writers anyway. Rows are written in key order, so that two requests
never wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import ColumnElement, Integer, Table, case, cast, func, literal, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rollout_budget.errors import Conflict, NotFound
from rollout_budget.wire import EvidenceRow
from services.kit.session import Database, insert
from services.prior_api import schema
from services.prior_api.records import Cell, Level, Policy, Scores, Text

QUALITY_BINS = 10
"""Bins of predicted values in the calibration error: each needs some dozens of rows to say anything."""
_SCHEMA_LOCK = 0x7072696F72
"""Key of PostgreSQL's advisory lock under which tables are made: two processes may start at once."""


class Repository:
    """Opens transactions on one engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._database = Database(engine)

    async def create_tables(self) -> None:
        """Make what is missing."""
        async with self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})"))
            await connection.run_sync(schema.metadata.create_all)

    async def dispose(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        """Enter a transaction; commits at the end of the block, rolls back if it raises.

        Raises:
            Unavailable: the database cannot be reached, or a lock was not had in time.
        """
        async with self._database.transaction() as connection:
            yield Transaction(connection)


class Transaction:
    """The statements of the service; valid inside `Repository.begin()`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def _add_new(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            await self._connection.execute(insert(self._connection, table).on_conflict_do_nothing(), rows)

    # Prompts and features

    async def prompt_hashes(self, team: str, keys: Iterable[str]) -> dict[str, str]:
        """Return the text hash of each of the team's keys that is registered."""
        table = schema.prompts
        query = select(table.c.key, table.c.text_hash).where(table.c.team == team, table.c.key.in_(sorted(keys)))
        return {row.key: row.text_hash for row in await self._connection.execute(query)}

    async def register(self, team: str, prompts: Mapping[str, Text]) -> int:
        """Store texts by key; return how many keys are new.

        Raises:
            Conflict: a key is registered with another text.
        """
        before = await self.prompt_hashes(team, prompts)
        rows = [
            {"team": team, "key": key, "text_hash": prompts[key].hash, "text": prompts[key].text.encode()}
            for key in sorted(prompts.keys() - before.keys())
        ]
        await self._add_new(schema.prompts, rows)
        after = await self.prompt_hashes(team, prompts) if rows else before
        for key, prompt in prompts.items():
            if after[key] != prompt.hash:
                raise Conflict(f"prompt key {key!r} is registered with another text")
        return len(rows)

    async def texts(self, hashes: Iterable[str]) -> dict[str, str]:
        """Return the texts that have these hashes."""
        table = schema.prompts
        query = select(table.c.text_hash, table.c.text).where(table.c.text_hash.in_(sorted(hashes)))
        return {row.text_hash: row.text.decode() for row in await self._connection.execute(query)}

    async def vectors(self, encoder: str, hashes: Iterable[str]) -> dict[str, bytes]:
        """Return the stored features of these texts."""
        table = schema.features
        query = select(table.c.text_hash, table.c.vector).where(
            table.c.encoder == encoder, table.c.text_hash.in_(sorted(hashes))
        )
        return {row.text_hash: row.vector for row in await self._connection.execute(query)}

    async def keep_vectors(self, encoder: str, vectors: Mapping[str, bytes]) -> None:
        """Store features; those that are there already stay."""
        rows = [{"encoder": encoder, "text_hash": key, "vector": vectors[key]} for key in sorted(vectors)]
        await self._add_new(schema.features, rows)

    # Evidence

    async def lock_policy(self, team: str, policy: str, scope: str | None, now: float) -> None:
        """Make the policy if it is new (private, if None), and hold its lock until the transaction ends.

        Raises:
            Conflict: the policy has another scope than is stated.
        """
        table = schema.policies
        new = {"team": team, "policy": policy, "scope": scope or "private", "rows": 0, "created": now}
        await self._add_new(table, [new])
        query = select(table.c.scope).where(table.c.team == team, table.c.policy == policy).with_for_update()
        stated = (await self._connection.execute(query)).scalar_one()
        if scope not in (None, stated):
            raise Conflict(f"policy {policy!r} was first stated as {stated}, not {scope}")

    async def add_evidence(self, team: str, policy: str, rows: Sequence[EvidenceRow]) -> list[EvidenceRow]:
        """Append those rows that are new and return them. The policy's lock is held.

        Raises:
            Conflict: an id is there with another body.
        """
        table = schema.evidence
        mine = (table.c.team == team, table.c.policy == policy)
        query = select(table.c.id, table.c.key, table.c.version, table.c.successes, table.c.trials).where(
            *mine, table.c.id.in_([row.id for row in rows])
        )
        known = {row.id: tuple(row) for row in await self._connection.execute(query)}
        for row in rows:
            if row.id in known and known[row.id] != (row.id, row.key, row.version, row.successes, row.trials):
                raise Conflict(f"evidence id {row.id!r} was used before with another body")
        new = sorted((row for row in rows if row.id not in known), key=lambda row: row.id)
        if new:
            given = await self._given(team, policy, new)
            bodies = [
                row.model_dump() | {"team": team, "policy": policy, "given": given.get((row.version, row.key))}
                for row in new
            ]
            await self._connection.execute(insert(self._connection, table), bodies)
            owner = update(schema.policies).where(schema.policies.c.team == team, schema.policies.c.policy == policy)
            await self._connection.execute(owner.values(rows=schema.policies.c.rows + len(new)))
        return new

    async def _given(self, team: str, policy: str, rows: Sequence[EvidenceRow]) -> dict[tuple[int, str], float]:
        table = schema.given
        query = select(table.c.version, table.c.key, table.c.value).where(
            table.c.team == team,
            table.c.policy == policy,
            table.c.version.in_(sorted({row.version for row in rows})),
            table.c.key.in_(sorted({row.key for row in rows})),
        )
        return {(row.version, row.key): row.value for row in await self._connection.execute(query)}

    async def add_levels(self, team: str, policy: str, levels: Sequence[Level]) -> None:
        """Add to the sums of each version. The policy's lock is held."""
        table = schema.versions
        statement = insert(self._connection, table)
        sums = {name: table.c[name] + statement.excluded[name] for name in Level.__slots__ if name != "version"}
        upsert = statement.on_conflict_do_update(index_elements=["team", "policy", "version"], set_=sums)
        rows = [
            {name: getattr(level, name) for name in Level.__slots__} | {"team": team, "policy": policy}
            for level in levels
        ]
        if rows:
            await self._connection.execute(upsert, rows)

    async def give(self, team: str, policy: str, version: int, values: Mapping[str, float]) -> None:
        """Remember the value last given for each key, to be scored when evidence comes."""
        statement = insert(self._connection, schema.given)
        upsert = statement.on_conflict_do_update(
            index_elements=["team", "policy", "version", "key"], set_={"value": statement.excluded.value}
        )
        place = {"team": team, "policy": policy, "version": version}
        await self._connection.execute(upsert, [place | {"key": key, "value": values[key]} for key in sorted(values)])

    # What heads and views read

    async def evidence_version(self, team: str) -> int:
        """Return how many evidence rows the team may learn from: its own and the shared ones."""
        query = select(func.coalesce(func.sum(schema.policies.c.rows), 0)).where(_visible(team))
        return int((await self._connection.execute(query)).scalar_one())

    async def visible_policies(self, team: str, most: int) -> list[Policy]:
        """Return policies that the team may learn from: its own first, newest first."""
        table = schema.policies
        own = case((table.c.team == team, 0), else_=1)
        order = (own, table.c.created.desc(), table.c.team, table.c.policy)
        query = select(table).where(_visible(team), table.c.rows > 0).order_by(*order).limit(most)
        rows = await self._connection.execute(query)
        return [Policy(row.team, row.policy, row.scope, row.rows) for row in rows]

    async def own_policies(self, team: str, policy: str | None = None) -> list[Policy]:
        """Return the team's policies, or the one named.

        Raises:
            NotFound: the team has no policy of that name.
        """
        table = schema.policies
        query = select(table).where(table.c.team == team).order_by(table.c.policy)
        if policy is not None:
            query = query.where(table.c.policy == policy)
        rows = (await self._connection.execute(query)).all()
        if policy is not None and not rows:
            raise NotFound(f"no policy {policy!r}")
        return [Policy(row.team, row.policy, row.scope, row.rows) for row in rows]

    async def cells(self, owner: Policy, *, keys: Sequence[str] | None = None, most: int | None = None) -> list[Cell]:
        """Return a policy's evidence added up by version and key, newest versions first."""
        table, names = schema.evidence, schema.prompts
        query = (
            select(
                table.c.key,
                table.c.version,
                func.min(names.c.text_hash).label("text_hash"),
                func.sum(table.c.successes).label("successes"),
                cast(func.sum(table.c.trials), Integer).label("trials"),
                func.count().label("rows"),
            )
            .select_from(table.outerjoin(names, (names.c.team == table.c.team) & (names.c.key == table.c.key)))
            .where(table.c.team == owner.team, table.c.policy == owner.policy)
            .group_by(table.c.version, table.c.key)
            .order_by(table.c.version.desc(), table.c.key)
        )
        if keys is not None:
            query = query.where(table.c.key.in_(keys))
        if most is not None:
            query = query.limit(most)
        return [
            Cell(owner.team, owner.policy, row.key, row.text_hash, row.version, row.successes, row.trials, row.rows)
            for row in await self._connection.execute(query)
        ]

    async def levels(self, team: str, policy: str, *, most: int, near: int | None = None) -> list[Level]:
        """Return the sums of the `most` versions nearest to `near`, or of the newest, in order of version."""
        table = schema.versions
        columns = [table.c[name] for name in Level.__slots__]
        distance: ColumnElement[Any] = -table.c.version if near is None else func.abs(table.c.version - near)
        query = select(*columns).where(table.c.team == team, table.c.policy == policy)
        rows = await self._connection.execute(query.order_by(distance, table.c.version).limit(most))
        return sorted((Level(*row) for row in rows), key=lambda level: level.version)

    async def scores(self, team: str, policy: str) -> list[Scores]:
        """Return how values did that had been given before their evidence came, by version and tenth of [0, 1]."""
        table = schema.evidence
        rate = table.c.successes / table.c.trials
        error = table.c.given - rate
        edges = [step / QUALITY_BINS for step in range(1, QUALITY_BINS)]
        place = sum((case((table.c.given >= edge, 1), else_=0) for edge in edges), literal(0)).label("place")
        sums = [func.sum(term) for term in (table.c.given, rate, rate * rate, error * error, 1.0 / table.c.trials)]
        query = (
            select(table.c.version, place, func.count(), *sums)
            .where(table.c.team == team, table.c.policy == policy, table.c.given.is_not(None))
            .group_by(table.c.version, text("place"))
            .order_by(table.c.version, text("place"))
        )
        return [Scores(*row) for row in await self._connection.execute(query)]


def _visible(team: str) -> ColumnElement[bool]:
    """The one door of tenancy for learning: the team's own policies and those stated as shared."""
    return or_(schema.policies.c.team == team, schema.policies.c.scope == "shared")
