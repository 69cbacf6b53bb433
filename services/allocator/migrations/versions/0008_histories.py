"""What priors without a prior service are made of: sums of outcomes by prompt and policy version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from services.allocator.migrations.second_wall import raise_wall, take_down

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLES = ("histories",)


def upgrade() -> None:
    """Add a table; it fills with the evidence that is delivered from now on."""
    op.create_table(
        "histories",
        *(sa.Column(name, sa.String(length=200), nullable=False) for name in ("team", "policy", "prompt_key")),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("successes", sa.Double(), nullable=False),
        sa.Column("trials", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("team", "policy", "prompt_key", "version", name=op.f("pk_histories")),
    )
    raise_wall(op.get_bind(), TABLES)


def downgrade() -> None:
    """Take it away again; priors then begin anew with every start of a process."""
    take_down(op.get_bind(), TABLES)
    op.drop_table("histories")
