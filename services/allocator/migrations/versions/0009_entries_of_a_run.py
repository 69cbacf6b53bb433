"""The record of one run is found without reading its team's."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add an index."""
    op.create_index("ix_entries_team_run_entry", "entries", ["team", "run", "entry_id"], unique=False)


def downgrade() -> None:
    """Take it away again."""
    op.drop_index("ix_entries_team_run_entry", table_name="entries")
