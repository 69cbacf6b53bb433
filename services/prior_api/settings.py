"""Settings of the prior service, from the environment (`ROLLOUT_BUDGET_PRIOR_*`). Unknown settings are refused.

There is no default secret: embedded mode mints a key of its own and listens on loopback only; production mode refuses
to start without keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from rollout_budget.wire.common import Identifier
from services.kit.configuration import ServiceSettings, is_loopback

Secret = Annotated[SecretStr, Field(min_length=16, max_length=200)]


class Settings(ServiceSettings):
    """Everything that can be set. An environment variable per field, lists and tables as JSON."""

    model_config = SettingsConfigDict(env_prefix="ROLLOUT_BUDGET_PRIOR_", extra="forbid", frozen=True)

    mode: Literal["embedded", "production"] = "embedded"
    """Embedded: one process on loopback for its own machine. Production: behind a proxy, keys required."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8101
    data: Path = Path(".rollout-budget/prior")
    """Folder of the SQLite file and of the key that embedded mode mints (`prior.key`, mode 0600)."""
    database_url: SecretStr | None = None
    """`postgresql://USER:PASSWORD@HOST/NAME` or `sqlite:///FILE`; by default `prior.db` in the data folder."""
    keys: dict[Identifier, Secret] = Field(default_factory=dict)
    """One Bearer key per team: `{"team-a": "..."}`."""
    service_keys: list[Secret] = Field(default_factory=list)
    """Keys that may speak for any team by the header `Rollout-Budget-Team` (the allocator has one)."""
    encoder: Literal["minilm"] = "minilm"
    """What turns texts into features."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of the encoder and of the linear algebra: the service usually shares its machine."""
    encoder_max_batch: Annotated[int, Field(ge=1, le=1024)] = 32
    encoder_max_wait_s: Annotated[float, Field(ge=0, le=1)] = 0.005
    """How long the first text of a batch waits for others."""
    encoder_max_queue: Annotated[int, Field(ge=1)] = 65_536
    """Texts that may wait; beyond it, registration is refused with 503."""
    encode_wait_s: Annotated[float, Field(ge=0, le=60)] = 2.0
    """How long a values call waits for features of new texts; later ones are ready for the next call."""
    max_rows: Annotated[int, Field(ge=16, le=8192)] = 2048
    """Rows in the Gaussian process: a refit costs their cube (0.2 s on one core at 2,048)."""
    refit_interval_s: Annotated[float, Field(ge=0, le=3600)] = 1.0
    """Shortest time between two refits of a team; answers between them say which evidence version they used."""
    refit_wait_s: Annotated[float, Field(ge=0, le=60)] = 0.5
    """How long a values call waits for a refit where an older fit is there: a busy machine does not hold up a step."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 32 * 2**20
    """Largest request: 4,096 prompts of 8,000 characters."""

    @model_validator(mode="after")
    def _safe(self) -> Settings:
        if self.mode == "production" and not (self.keys or self.service_keys):
            raise ValueError("production mode needs keys or service_keys: there is no default secret")
        if self.mode == "embedded" and not is_loopback(self.host):
            raise ValueError(f"embedded mode listens on loopback only, not on {self.host!r}: set mode=production")
        secrets = [secret.get_secret_value() for secret in (*self.keys.values(), *self.service_keys)]
        if len(set(secrets)) != len(secrets):
            raise ValueError("two entries of keys and service_keys share one secret")
        return self

    @property
    def database(self) -> str:
        """The database URL in force."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data / 'prior.db'}"

    @property
    def key_file(self) -> Path:
        """Where embedded mode keeps the key that it minted."""
        return self.data / "prior.key"
