"""The tables. Migrations build the same; a test compares the two on both databases.

`accounts` holds every scope a rollout is charged to, one row each, named as in `rollout_budget.ledger.books`:

    run     span            its limit
    ''      total           the team's
    ''      day:2026-11-22  the team's per day        (span `day:` is the pattern that new days copy)
    ''      month:2026-11   the team's per month      (span `month:` likewise)
    run id  total           the run's
    run id  step:7          the run's per step        (span `step:` likewise)

Counters and `usage_sums` are projections of `entries`, which are append-only (triggers refuse anything else), written
in the same transaction. An entry without `policy` was written by a release that knew no sums: a trigger adds it to them
and to the accounts' tokens and time; `extra` and `milliseconds` of it follow from its other columns (`lines`). Moments are seconds since 1970 by the database's clock. Reservations are found by the digest of their id:
an id may be longer than PostgreSQL's longest index entry.

Old entries leave for files (`archive`): `archives` names each, and only entries that it covers may be deleted.
`archived_sums` stand for them, `balances` for all entries of a team up to its checkpoint (`balances`).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from rollout_budget.ledger.books import Counts

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ID = 200
"""Longest identifier on the wire."""
DIGEST = 64
"""Hexadecimal digits of a SHA-256."""
AutoId = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only where the type is INTEGER."""

teams = Table(
    "teams",
    metadata,
    Column("team", String(ID), primary_key=True),
    Column("name", String(ID)),
    Column("fingerprint", String(DIGEST), nullable=False),
    Column("created_s", Double, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("team", String(ID), nullable=False),
    Column("scope", String(16), nullable=False),
    Column("label", String(ID)),
    Column("digest", String(DIGEST), nullable=False, unique=True),
    Column("created_s", Double, nullable=False),
    Column("expires_s", Double),
    Column("revoked_s", Double),
    Column("replaces", String(32)),
    Index("ix_keys_replaces", "replaces", unique=True),
    Index("ix_keys_created_s_key_id", "created_s", "key_id"),
)

changes = Table(
    "changes",
    metadata,
    Column("change_id", AutoId, primary_key=True, autoincrement=True),
    Column("at_s", Double, nullable=False),
    Column("by_key", String(32), nullable=False),
    Column("by_scope", String(16), nullable=False),
    Column("by_team", String(ID), nullable=False),
    Column("action", String(32), nullable=False),
    Column("team", String(ID), nullable=False),
    Column("subject", String(ID + 20), nullable=False),
    Column("before", Text),
    Column("after", Text, nullable=False),
    Index("ix_changes_team_change_id", "team", "change_id"),
    Index("ix_changes_subject_change_id", "subject", "change_id"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("digest", String(DIGEST), primary_key=True),
    Column("fingerprint", String(DIGEST), nullable=False),
    Column("key_id", String(32), nullable=False),
    Column("created_s", Double, nullable=False),
)

accounts = Table(
    "accounts",
    metadata,
    Column("team", String(ID), primary_key=True),
    Column("run", String(ID), primary_key=True),
    Column("span", String(16), primary_key=True),
    Column("limit_rollouts", BigInteger),
    Column("reserved", BigInteger, nullable=False, server_default=text("0")),
    Column("committed", BigInteger, nullable=False, server_default=text("0")),
    Column("overage", BigInteger, nullable=False, server_default=text("0")),
    Column("suspended", Boolean, nullable=False, server_default=false()),
    Column("limit_tokens", BigInteger),
    Column("limit_milliseconds", BigInteger),
    Column("tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("tokens_reserved", BigInteger, nullable=False, server_default=text("0")),
    Column("milliseconds", BigInteger, nullable=False, server_default=text("0")),
    Column("milliseconds_reserved", BigInteger, nullable=False, server_default=text("0")),
    Column("tokens_each", BigInteger, nullable=False, server_default=text("0")),
    Column("milliseconds_each", BigInteger, nullable=False, server_default=text("0")),
    Column("warn_at", Double, nullable=False, server_default=text("0.8")),
    Column("shadow", Boolean, nullable=False, server_default=false()),
    CheckConstraint("reserved >= 0 AND committed >= 0 AND overage >= 0", name="never_negative"),
)

reservations = Table(
    "reservations",
    metadata,
    Column("team", String(ID), primary_key=True),
    Column("id_digest", String(DIGEST), primary_key=True),
    Column("reservation_id", Text, nullable=False),
    Column("run", String(ID), nullable=False),
    Column("asked", BigInteger, nullable=False),
    Column("rollouts", BigInteger, nullable=False),
    Column("step", BigInteger),
    Column("day", String(10), nullable=False),
    Column("state", String(16), nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("expires_s", Double),
    Column("policy", String(ID), nullable=False, server_default=text("''")),
    Column("tokens_each", BigInteger, nullable=False, server_default=text("0")),
    Column("milliseconds_each", BigInteger, nullable=False, server_default=text("0")),
    Index(
        "ix_reservations_held",
        "team",
        "run",
        "expires_s",
        sqlite_where=text("state = 'reserved'"),
        postgresql_where=text("state = 'reserved'"),
    ),
)

entries = Table(
    "entries",
    metadata,
    Column("entry_id", AutoId, primary_key=True, autoincrement=True),
    Column("team", String(ID), nullable=False),
    Column("run", String(ID), nullable=False),
    Column("reservation", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("rollouts", BigInteger, nullable=False),
    Column("step", BigInteger),
    Column("day", String(10), nullable=False),
    Column("reference", BigInteger, nullable=False, server_default=text("0")),
    Column("tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("seconds", Double, nullable=False, server_default=text("0")),
    Column("at_s", Double, nullable=False),
    Column("milliseconds", BigInteger),
    Column("held_tokens", BigInteger),
    Column("held_milliseconds", BigInteger),
    Column("policy", String(ID)),
    Column("extra", Boolean),
    Index("ix_entries_team_entry", "team", "entry_id"),
    Index("ix_entries_team_run_entry", "team", "run", "entry_id"),
    Index(
        "ix_entries_overage",
        "team",
        "entry_id",
        sqlite_where=text("kind = 'overage'"),
        postgresql_where=text("kind = 'overage'"),
    ),
)

usage_sums = Table(
    "usage_sums",
    metadata,
    Column("team", String(ID), primary_key=True),
    Column("run", String(ID), primary_key=True),
    Column("policy", String(ID), primary_key=True),
    Column("day", String(10), primary_key=True),
    *(Column(name, BigInteger, nullable=False, server_default=text("0")) for name in Counts._fields),
)

archives = Table(
    "archives",
    metadata,
    Column("team", String(ID), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("first_entry", BigInteger, primary_key=True),
    Column("last_entry", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("file", Text, nullable=False),
    Column("digest", String(DIGEST), nullable=False),
    Column("archived_s", Double, nullable=False),
)


def _sums_by_step(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("team", String(ID), primary_key=True),
        Column("run", String(ID), primary_key=True),
        Column("policy", String(ID), primary_key=True),
        Column("day", String(10), primary_key=True),
        Column("step", BigInteger, primary_key=True, autoincrement=False),
        *(Column(count, BigInteger, nullable=False, server_default=text("0")) for count in Counts._fields),
    )


NO_STEP = -1
"""Step of the sums of entries without one."""
archived_sums = _sums_by_step("archived_sums")
balances = _sums_by_step("balances")

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("team", String(ID), primary_key=True),
    Column("entry_id", BigInteger, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("team", String(ID), primary_key=True),
    Column("run", String(ID), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("fingerprint", String(DIGEST), nullable=False),
    Column("reliability", Text, nullable=False),
    Column("finished", Boolean, nullable=False),
    Column("pacing", Text),
)

groups = Table(
    "groups",
    metadata,
    Column("team", String(ID), primary_key=True),
    Column("run", String(ID), primary_key=True),
    Column("group_id", String(ID), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("closed", Boolean, nullable=False),
    Column("record", Text, nullable=False),
)

plans = Table(
    "plans",
    metadata,
    Column("entry_id", AutoId, primary_key=True, autoincrement=True),
    Column("team", String(ID), nullable=False),
    Column("run", String(ID), nullable=False),
    Column("plan_id", String(ID), nullable=False),
    Column("record", Text, nullable=False),
    UniqueConstraint("team", "run", "plan_id"),
)

restores = Table(
    "restores",
    metadata,
    Column("restore_id", AutoId, primary_key=True, autoincrement=True),
    Column("at_s", Double, nullable=False),
    Column("no_grants_until_s", Double, nullable=False),
)

ALL_PROMPTS = ""
"""Key of the sums over all prompts of a policy: no prompt has it."""
ALL_VERSIONS = -1
"""Version of the sums over all versions: no policy has it."""

histories = Table(
    "histories",
    metadata,
    Column("team", String(ID), primary_key=True),
    Column("policy", String(ID), primary_key=True),
    Column("prompt_key", String(ID), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("successes", Double, nullable=False),
    Column("trials", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("entry_id", AutoId, primary_key=True, autoincrement=True),
    Column("evidence_id", String(DIGEST), nullable=False, unique=True),
    Column("team", String(ID), nullable=False),
    Column("policy", String(ID), nullable=False),
    Column("row", Text, nullable=False),
)
