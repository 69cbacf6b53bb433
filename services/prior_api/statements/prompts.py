"""Texts and features. Each team has its own, so that no answer can tell that another team sent a text before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import select

from rollout_budget.errors import Conflict
from services.prior_api import schema
from services.prior_api.records import Text
from services.prior_api.statements.base import Statements


class Prompts(Statements):
    """Statements on prompts and vectors."""

    async def prompt_hashes(self, team: str, keys: Iterable[str]) -> dict[str, str]:
        """Return the text hash of each of the team's keys that is registered."""
        table = schema.prompts
        query = select(table.c.key, table.c.text_hash).where(table.c.team == team, table.c.key.in_(sorted(keys)))
        return {row[0]: row[1] for row in await self._connection.execute(query)}

    async def register(self, team: str, prompts: Mapping[str, Text]) -> int:
        """Store texts by key; return how many keys are new.

        Raises:
            Conflict: a key is registered with another text.
        """
        if not prompts:
            return 0
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

    async def texts(self, team: str, hashes: Iterable[str]) -> dict[str, str]:
        """Return the team's texts that have these hashes."""
        table = schema.prompts
        query = select(table.c.text_hash, table.c.text).where(
            table.c.team == team, table.c.text_hash.in_(sorted(hashes))
        )
        return {text_hash: text.decode() for text_hash, text in await self._connection.execute(query)}

    async def vectors(self, team: str, encoder: str, hashes: Iterable[str]) -> dict[str, bytes]:
        """Return the stored features of the team's texts."""
        table = schema.vectors
        query = select(table.c.text_hash, table.c.vector).where(
            table.c.team == team, table.c.encoder == encoder, table.c.text_hash.in_(sorted(hashes))
        )
        return {row[0]: row[1] for row in await self._connection.execute(query)}

    async def keep_vectors(self, encoder: str, vectors: Mapping[tuple[str, str], bytes]) -> None:
        """Store features by team and text hash; those that are there already stay."""
        rows = [
            {"team": team, "encoder": encoder, "text_hash": text_hash, "vector": vectors[team, text_hash]}
            for team, text_hash in sorted(vectors)
        ]
        await self._add_new(schema.vectors, rows)
