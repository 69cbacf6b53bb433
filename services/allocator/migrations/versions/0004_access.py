"""Keys that rotate, and the record of who changed what. A column and a table more; the others stay as they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TRIGGERS = {
    "sqlite": [
        f"CREATE TRIGGER changes_no_{verb.lower()} BEFORE {verb} ON changes "
        "BEGIN SELECT RAISE(ABORT, 'changes are append-only'); END"
        for verb in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        (
            "CREATE FUNCTION changes_are_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'changes are append-only'; END $$"
        ),
        (
            "CREATE TRIGGER changes_append_only BEFORE UPDATE OR DELETE ON changes "
            "FOR EACH ROW EXECUTE FUNCTION changes_are_append_only()"
        ),
    ],
}


def upgrade() -> None:
    op.add_column("keys", sa.Column("replaces", sa.String(length=32), nullable=True))
    op.create_index("ix_keys_replaces", "keys", ["replaces"], unique=True)
    op.create_index("ix_keys_created_s_key_id", "keys", ["created_s", "key_id"], unique=False)
    op.create_table(
        "changes",
        sa.Column(
            "change_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("by_key", sa.String(length=32), nullable=False),
        sa.Column("by_scope", sa.String(length=16), nullable=False),
        sa.Column("by_team", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("team", sa.String(length=200), nullable=False),
        sa.Column("subject", sa.String(length=220), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("change_id", name=op.f("pk_changes")),
    )
    op.create_index("ix_changes_team_change_id", "changes", ["team", "change_id"], unique=False)
    op.create_index("ix_changes_subject_change_id", "changes", ["subject", "change_id"], unique=False)
    for statement in TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("changes")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION changes_are_append_only")
    op.drop_index("ix_keys_created_s_key_id", table_name="keys")
    op.drop_index("ix_keys_replaces", table_name="keys")
    op.drop_column("keys", "replaces")
