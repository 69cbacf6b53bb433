"""A service in this process, without HTTP, for as long as a block lasts."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from services.prior_api.app import create_app
from services.prior_api.encoders import Encoder
from services.prior_api.service import PriorService
from services.prior_api.settings import Settings

TEAM = "team"


@asynccontextmanager
async def service(encoder: Encoder | None, **changes: Any) -> AsyncIterator[PriorService]:
    """Run a service on a new SQLite file, unless `database_url` names another database."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as folder:
        defaults: dict[str, Any] = {"data": Path(folder), "device": "cpu", "encode_wait_s": 60.0}
        settings = Settings(**{**defaults, **changes})
        app = create_app(settings, encoder=encoder)
        async with app.router.lifespan_context(app):
            yield app.state.service
