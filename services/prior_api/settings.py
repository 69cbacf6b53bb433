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
from services.kit.configuration import AdmittingSettings, is_loopback
from services.prior_api.encoders import DEFAULT_BACKBONE, Choice
from services.prior_api.encoders.placement import Device, Placement, Precision
from services.prior_api.encoders.transformer import Pooling
from services.prior_api.heads import tabicl, tabpfn
from services.prior_api.heads.catalogue import HeadChoice, HeadName
from services.prior_api.heads.tabular import CONTEXT_ROWS
from services.prior_api.sharing import EPSILON

Secret = Annotated[SecretStr, Field(min_length=16, max_length=200)]


class Settings(AdmittingSettings):
    """Everything that can be set. An environment variable per field, lists and tables as JSON."""

    model_config = SettingsConfigDict(
        env_prefix="ROLLOUT_BUDGET_PRIOR_", extra="forbid", frozen=True, use_attribute_docstrings=True
    )

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
    encoder: Annotated[str, Field(pattern=r"^(minilm|hf:.+|v0:.+)$")] = "minilm"
    """What turns texts into features: `minilm`, `hf:FOLDER-OR-REPOSITORY`, or `v0:CHECKPOINT` (docs/prior-models.md)."""
    encoder_pooling: Pooling = "mean"
    """Of an `hf:` encoder: over its tokens, the last one, or the first."""
    encoder_max_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = None
    """Of an `hf:` encoder: what follows is cut; by default its own bound, 8,192 at most."""
    encoder_revision: str | None = None
    """Branch, tag or commit on the hub; name a commit in production, or features may change beneath you."""
    encoder_backbone: str = DEFAULT_BACKBONE
    """Of a `v0:` encoder: folder or repository of Qwen3-Embedding-0.6B."""
    encoder_batch_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens through the encoder at once, padding included; by default 1,024 on a CPU, 65,536 on a GPU."""
    precision: Precision = "auto"
    """Of the encoder: by default bfloat16 on a GPU and on a CPU that multiplies it, float32 elsewhere."""
    device: Device = "auto"
    """Of encoder and in-context heads: by default CUDA if torch sees it."""
    hub: bool = False
    """Whether weights may be downloaded; without, folders and the local hub cache."""
    heads: Annotated[list[HeadName], Field(min_length=1)] = Field(default=["gp"])
    """What predicts: `gp`, `tabpfn`, `tabicl`. The first answers for one that is asked for and not in the list."""
    tabpfn_weights: str = tabpfn.REPOSITORY
    """File, folder, or repository of the hub (`owner/name/file`); by default V0's own, not for commercial use."""
    tabicl_weights: str = tabicl.REPOSITORY
    """File, folder, or repository of the hub."""
    context_rows: Annotated[int, Field(ge=2, le=8192)] = CONTEXT_ROWS
    """Rows of evidence that an in-context head reads."""
    estimators: Annotated[int, Field(ge=1, le=64)] = 4
    """Passes of an in-context head that are averaged."""
    accept_licences: list[str] = Field(default_factory=list)
    """Weights whose non-commercial licence your use keeps to, by name: `["tabpfn-2.5"]`."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of the encoder and of the linear algebra: the service usually shares its machine."""
    encoder_max_batch: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Texts handed to the encoder at once; by default 256 on a CPU, 1,024 on a GPU."""
    encoder_max_wait_s: Annotated[float, Field(ge=0, le=1)] = 0.005
    """How long the first text of a batch waits for others."""
    encoder_max_queue: Annotated[int, Field(ge=1)] = 65_536
    """Texts that may wait; beyond it, registration is refused with 503."""
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 64
    """Units of work at once (see `AdmittingSettings`): most of them wait for the encoder, which likes company."""
    team_concurrency: Annotated[int, Field(ge=1, le=4096)] = 32
    """Units of one team at once."""
    encode_wait_s: Annotated[float, Field(ge=0, le=60)] = 2.0
    """How long a values call waits for features of new texts; later ones are ready for the next call."""
    shared_epsilon: Annotated[float, Field(gt=0, le=16)] = EPSILON
    """Noise with which outcomes of shared policies cross to other teams (docs/prior.md): smaller is more."""
    max_rows: Annotated[int, Field(ge=16, le=8192)] = 2048
    """Rows in the Gaussian process: a refit costs their cube (0.2 s on one core at 2,048)."""
    refit_interval_s: Annotated[float, Field(ge=0, le=3600)] = 1.0
    """Shortest time between two refits of a team; between them new rows are appended to the last one."""
    refit_wait_s: Annotated[float, Field(ge=0, le=60)] = 0.0
    """How long a values call waits for a refit where an older fit is there: by default not at all."""
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
            return self.with_password(self.database_url.get_secret_value())
        return f"sqlite:///{self.data / 'prior.db'}"

    def placement(self) -> Placement:
        """Where models run; looks for a GPU, so it imports torch unless `device` is `cpu`.

        Raises:
            ValueError: the device is not there.
        """
        return Placement.choose(self.device, self.precision, self.threads, self.encoder_batch_tokens)

    @property
    def encoder_choice(self) -> Choice:
        """What these settings say about the encoder."""
        return Choice(
            name=self.encoder,
            pooling=self.encoder_pooling,
            max_tokens=self.encoder_max_tokens,
            revision=self.encoder_revision,
            backbone=self.encoder_backbone,
            hub=self.hub,
        )

    def head_choice(self, device: str) -> HeadChoice:
        """What these settings say about heads, which run on `device`."""
        return HeadChoice(
            names=self.heads,
            rows=self.context_rows,
            estimators=self.estimators,
            tabpfn_weights=self.tabpfn_weights,
            tabicl_weights=self.tabicl_weights,
            device=device,
            hub=self.hub,
        )

    @property
    def key_file(self) -> Path:
        """Where embedded mode keeps the key that it minted."""
        return self.data / "prior.key"
