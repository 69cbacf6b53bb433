"""Sums that stand for entries, archived ones and those that an audit need not read again; entries leave by archive only.

The release before this one runs on the result, as long as nothing was archived: its auditor knows no sums.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from services.allocator.migrations.second_wall import raise_wall, take_down

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SUMS = (
    "granted",
    "reserved",
    "committed",
    "released",
    "expired",
    "refused",
    "overage",
    "groups_closed",
    "references",
    "tokens",
    "milliseconds",
    "extra",
    "shadow_refused",
    "tokens_reserved",
    "tokens_overage",
    "milliseconds_reserved",
    "milliseconds_overage",
)
TABLES = ("archives", "archived_sums", "balances", "checkpoints")
COVERED = (
    "EXISTS (SELECT 1 FROM archives a WHERE a.team = OLD.team AND a.day = OLD.day "
    "AND OLD.entry_id BETWEEN a.first_entry AND a.last_entry)"
)
REFUSE = "SELECT RAISE(ABORT, '{} are append-only')"
UPGRADE = {
    "sqlite": [
        "DROP TRIGGER entries_no_delete",
        f"CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries WHEN NOT {COVERED} BEGIN {REFUSE.format('entries')}; END",
        *(
            f"CREATE TRIGGER archives_no_{verb.lower()} BEFORE {verb} ON archives BEGIN {REFUSE.format('archives')}; END"
            for verb in ("UPDATE", "DELETE")
        ),
    ],
    "postgresql": [
        (
            "CREATE OR REPLACE FUNCTION entries_are_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF TG_OP = 'DELETE' AND {COVERED} THEN RETURN OLD; END IF; "
            "RAISE EXCEPTION 'entries are append-only'; END $$"
        ),
        (
            "CREATE FUNCTION archives_are_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'archives are append-only'; END $$"
        ),
        (
            "CREATE TRIGGER archives_append_only BEFORE UPDATE OR DELETE ON archives "
            "FOR EACH ROW EXECUTE FUNCTION archives_are_append_only()"
        ),
    ],
}
DOWNGRADE = {
    "sqlite": [
        "DROP TRIGGER entries_no_delete",
        f"CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries BEGIN {REFUSE.format('entries')}; END",
    ],
    "postgresql": [
        (
            "CREATE OR REPLACE FUNCTION entries_are_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'entries are append-only'; END $$"
        ),
        "DROP TRIGGER archives_append_only ON archives",
        "DROP FUNCTION archives_are_append_only",
    ],
}


def upgrade() -> None:
    op.create_table(
        "archives",
        sa.Column("team", sa.String(length=200), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("first_entry", sa.BigInteger(), nullable=False),
        sa.Column("last_entry", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("archived_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("team", "day", "first_entry", name=op.f("pk_archives")),
    )
    for table in ("archived_sums", "balances"):
        op.create_table(
            table,
            *(sa.Column(name, sa.String(length=200), nullable=False) for name in ("team", "run", "policy")),
            sa.Column("day", sa.String(length=10), nullable=False),
            sa.Column("step", sa.BigInteger(), autoincrement=False, nullable=False),
            *(sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False) for name in SUMS),
            sa.PrimaryKeyConstraint("team", "run", "policy", "day", "step", name=op.f(f"pk_{table}")),
        )
    op.create_table(
        "checkpoints",
        sa.Column("team", sa.String(length=200), nullable=False),
        sa.Column("entry_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("team", name=op.f("pk_checkpoints")),
    )
    for statement in UPGRADE[op.get_bind().dialect.name]:
        op.execute(statement)
    raise_wall(op.get_bind(), TABLES)


def downgrade() -> None:
    """Take away again; refused while something is archived, for its entries would count no more."""
    if op.get_bind().scalar(sa.text("SELECT count(*) FROM archives")):
        raise RuntimeError("entries were archived; the release before this one would take their counters for wrong")
    take_down(op.get_bind(), TABLES)
    for statement in DOWNGRADE[op.get_bind().dialect.name]:
        op.execute(statement)
    for table in reversed(TABLES):
        op.drop_table(table)
