"""Alembic's entry: runs migrations on the connection that `database.migrate` hands over."""

from __future__ import annotations

from alembic import context

from services.allocator.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_server_default=True,
    render_as_batch=context.config.attributes["connection"].dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
