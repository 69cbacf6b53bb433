"""What a run's price has learned from its steps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column; empty where a run's price is not paced."""
    op.add_column("runs", sa.Column("pacing", sa.Text()))


def downgrade() -> None:
    """Take it away again; prices fall back to the stopping rules' own."""
    op.drop_column("runs", "pacing")
