"""Priors without a prior service, for any number of processes: each prompt's own past, as sums in the database.

Obeys the engine's `PriorSource` and predicts what `HistoryPrior` does. Owns the table `histories`. A row of evidence is
added in the transaction that takes it out of the outbox, so that it counts exactly once, whoever delivers it and
however often; a row that waits in no outbox was added before. Sums are kept by policy version, as evidence fades with the
distance between versions in either direction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from sqlalchemy import and_, bindparam, delete, or_, select

from rollout_budget.engine.history import HALF_LIFE_VERSIONS, Tally, predicted
from rollout_budget.wire import EvidenceRow, PriorModel, Prompt, ValuesAnswer
from services.allocator.database.store import SqlStore
from services.allocator.database.tables import ALL_PROMPTS, ALL_VERSIONS, histories, outbox
from services.kit.rows import Listed, among, write

FORGOTTEN_VERSIONS = int(32 * HALF_LIFE_VERSIONS)
"""Distance from which outcomes are not read: they count less than 2^-32, and the read stays bounded in a long run."""
MODEL_VERSION = "database"
_COLUMNS = ("team", "policy", "prompt_key", "version", "successes", "trials", "rows")
_IDS = bindparam("in_ids", type_=Listed())
_TAKEN = (
    delete(outbox)
    .where(outbox.c.team == bindparam("in_team"), outbox.c.policy == bindparam("in_policy"))
    .where(among(outbox.c.evidence_id, _IDS))
    .returning(outbox.c.evidence_id)
)
_NEAR = (
    select(histories)
    .where(histories.c.team == bindparam("in_team"), histories.c.policy == bindparam("in_policy"))
    .where(
        among(histories.c.prompt_key, _IDS),
        or_(
            histories.c.version == ALL_VERSIONS,
            and_(histories.c.version > bindparam("in_after"), histories.c.version < bindparam("in_before")),
        ),
    )
)


class SqlHistories:
    """Obeys `PriorSource`.

    Args:
        store: where the outbox of this evidence is, too.
    """

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    async def values(
        self, team: str, policy: str, version: int, prompts: Sequence[Prompt], model: PriorModel
    ) -> ValuesAnswer:
        """See `PriorSource`."""
        near = {
            "in_team": team,
            "in_policy": policy,
            "in_ids": list(dict.fromkeys([ALL_PROMPTS, *(prompt.key for prompt in prompts)])),
            "in_after": max(version - FORGOTTEN_VERSIONS, ALL_VERSIONS),
            "in_before": version + FORGOTTEN_VERSIONS,
        }
        tallies: defaultdict[str, Tally] = defaultdict(Tally)
        async with self._store.reading(team) as connection:
            for row in await connection.execute(_NEAR, near):
                tally = tallies[row.prompt_key]
                if row.version == ALL_VERSIONS:
                    tally.rows = row.rows
                else:
                    tally.by_version[row.version] = (row.successes, row.trials)
        everything = tallies[ALL_PROMPTS]
        return predicted(version, prompts, model, tallies, everything=everything, model_version=MODEL_VERSION)

    async def add_evidence(self, team: str, policy: str, rows: Sequence[EvidenceRow]) -> None:
        """See `PriorSource`; the rows leave the outbox with this."""
        named = {"in_team": team, "in_policy": policy, "in_ids": [row.id for row in rows]}
        async with self._store.transaction(team) as transaction:
            taken = set((await transaction.connection.execute(_TAKEN, named)).scalars())
            sums = _sums({row.id: row for row in rows if row.id in taken}.values())
            added = [(team, policy, *place, *counts) for place, counts in sorted(sums.items())]
            await write(transaction.connection, histories, _COLUMNS, added, changed=_COLUMNS[4:], adding=True)


def _sums(rows: Iterable[EvidenceRow]) -> dict[tuple[str, int], tuple[float, int, int]]:
    """Return successes, trials and rows by prompt and version, with those of all prompts and of all versions."""
    sums: dict[tuple[str, int], tuple[float, int, int]] = {}
    for row in rows:
        for place in [(key, version) for key in (row.key, ALL_PROMPTS) for version in (row.version, ALL_VERSIONS)]:
            successes, trials, count = sums.get(place, (0.0, 0, 0))
            sums[place] = (successes + row.successes, trials + row.trials, count + 1)
    return sums
