"""The routes, one file per audience: runs and decisions, budgets and usage, administration."""

from __future__ import annotations

import services.kit.segments  # noqa: F401  the convertors that the routes' templates name
