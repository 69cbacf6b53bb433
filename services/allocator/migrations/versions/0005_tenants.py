"""A second wall between teams, and the moment before which nothing is granted after a restore."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from services.allocator.migrations.second_wall import raise_wall, take_down

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a table of at most one row, and policies to every table that has a team."""
    op.create_table(
        "restores",
        sa.Column(
            "restore_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("no_grants_until_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("restore_id", name=op.f("pk_restores")),
    )
    raise_wall(op.get_bind())


def downgrade() -> None:
    """Take both away again."""
    take_down(op.get_bind())
    op.drop_table("restores")
