"""The database's clock, as one SQL expression: seconds since 1970.

Leases, key expiry and budget periods follow this clock and no other (G7, G11), so that neither a client's clock nor
that of one of several service processes matters.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class now_s(FunctionElement[float]):  # noqa: N801  reads as a function in SQL
    """Seconds since 1970 at the moment the statement runs, not at the start of its transaction."""

    type = Double()
    inherit_cache = True


@compiles(now_s, "sqlite")
def _sqlite(_element: now_s, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now_s, "postgresql")
def _postgresql(_element: now_s, _compiler: Any, **_options: Any) -> str:
    return "(extract(epoch from clock_timestamp())::double precision)"
