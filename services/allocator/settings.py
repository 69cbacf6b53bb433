"""Settings of the allocator, from the environment (`ROLLOUT_BUDGET_ALLOCATOR_...`); unknown ones are refused.

Two modes. `embedded` is one process on loopback with a SQLite file: it makes its own keys and writes them, readable by
their owner alone, into the data directory. `production` takes its secrets from outside and refuses to start without.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from services.kit.configuration import AdmittingSettings, is_loopback

MIN_SECRET_CHARS = 32
"""Shortest pepper or admin key: 128 bits of hexadecimal digits."""

PREFIX = "ROLLOUT_BUDGET_ALLOCATOR_"


def _variables(names: Sequence[str]) -> str:
    return " and ".join(PREFIX + name.upper() for name in names)


class Settings(AdmittingSettings):
    """Everything that can be set. Secrets have no defaults."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, use_attribute_docstrings=True)

    mode: Literal["embedded", "production"] = "embedded"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8100
    data: Path = Path(".rollout-budget/allocator")
    """Directory of the embedded mode: SQLite file, keys, pepper."""

    database_url: SecretStr | None = None
    """`postgresql://...` or `sqlite:///FILE`; the embedded mode defaults to `<data>/allocator.db`."""

    pepper: SecretStr | None = None
    """Secret under which keys are hashed; losing it revokes every key."""

    admin_key: SecretStr | None = None
    """Bearer token of the admin routes."""

    prior_url: str | None = None
    """The prior service; without it, priors come from the prompts' own history, in the database."""

    prior_key: SecretStr | None = None
    prior_deadline_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Longest wait for priors in one `open`; after that the run's running mean serves, and the answer says so."""

    max_body_bytes: Annotated[int, Field(ge=1024, le=256 * 2**20)] = 64 * 2**20
    """Largest request body: a full batch of prompts of ordinary length; longer prompts take smaller batches."""

    audit_every_s: Annotated[float, Field(gt=0)] = 60.0
    """Pause between two recomputations of every counter from its entries."""

    deliver_every_s: Annotated[float, Field(gt=0)] = 5.0
    """Pause between two attempts to deliver evidence when no group was closed meanwhile."""

    gauges_every_s: Annotated[float, Field(gt=0)] = 15.0
    """Pause between two readings of budgets and usage for `/metrics`: the usual pause between two scrapes."""

    @model_validator(mode="after")
    def _safe(self) -> Settings:
        if self.mode == "production":
            missing = [name for name in ("database_url", "pepper", "admin_key") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"production mode needs {', '.join(missing)}; set {_variables(missing)}")
        elif not is_loopback(self.host):
            raise ValueError(f"embedded mode binds to loopback only, not to {self.host!r}; use production mode")
        for name in ("pepper", "admin_key"):
            secret = getattr(self, name)
            if secret is not None and len(secret.get_secret_value()) < MIN_SECRET_CHARS:
                raise ValueError(f"{name} needs at least {MIN_SECRET_CHARS} characters")
        if (self.prior_url is None) != (self.prior_key is None):
            raise ValueError(f"prior_url and prior_key go together; set {_variables(('prior_url', 'prior_key'))}")
        return self

    @property
    def url(self) -> str:
        """URL of the database."""
        if self.database_url is not None:
            return self.with_password(self.database_url.get_secret_value())
        return f"sqlite:///{self.data / 'allocator.db'}"
