"""Teams that are closed: since when, and the limits that they have again once they are reopened. A table more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from services.allocator.migrations.second_wall import raise_wall, take_down

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLES = ("closures",)


def upgrade() -> None:
    """Add a table; every team is open."""
    op.create_table(
        "closures",
        sa.Column("team", sa.String(length=200), nullable=False),
        sa.Column("closed_s", sa.Double(), nullable=False),
        sa.Column("limits_before", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("team", name=op.f("pk_closures")),
    )
    raise_wall(op.get_bind(), TABLES)


def downgrade() -> None:
    """Take it away again; teams that are closed stay without keys, and with a limit of 0 rollouts."""
    take_down(op.get_bind(), TABLES)
    op.drop_table("closures")
