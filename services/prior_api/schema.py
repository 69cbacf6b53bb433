"""Tables of the prior service. All of a team's data carries the team in its primary key."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, MetaData, String, Table

metadata = MetaData()

prompts = Table(
    "prior_prompts",
    metadata,
    Column("team", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("text_hash", String(64), nullable=False),
    Column("text", LargeBinary, nullable=False, comment="UTF-8; kept because another encoder needs it again"),
    Index("prior_prompts_text", "text_hash"),
)

features = Table(
    "prior_features",
    metadata,
    Column("encoder", String, primary_key=True),
    Column("text_hash", String(64), primary_key=True),
    Column("vector", LargeBinary, nullable=False, comment="little-endian float32"),
)

policies = Table(
    "prior_policies",
    metadata,
    Column("team", String, primary_key=True),
    Column("policy", String, primary_key=True),
    Column("scope", String(8), nullable=False),
    Column("rows", BigInteger, nullable=False, comment="evidence rows; its lock orders writers of one policy"),
    Column("created", Double, nullable=False, comment="seconds since the epoch"),
    Index("prior_policies_scope", "scope"),
)

evidence = Table(
    "prior_evidence",
    metadata,
    Column("team", String, primary_key=True),
    Column("policy", String, primary_key=True),
    Column("id", String, primary_key=True),
    Column("key", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("successes", Double, nullable=False),
    Column("trials", Integer, nullable=False),
    Column("given", Double, comment="value that was given for this key and version before this row came"),
    Index("prior_evidence_version", "team", "policy", "version", "key"),
    Index("prior_evidence_key", "team", "policy", "key", "version"),
)

versions = Table(
    "prior_versions",
    metadata,
    Column("team", String, primary_key=True),
    Column("policy", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("rows", BigInteger, nullable=False),
    Column("trials", BigInteger, nullable=False),
    Column("successes", Double, nullable=False),
    Column("rates", Double, nullable=False, comment="sum of successes / trials over rows"),
    Column("squared_rates", Double, nullable=False),
    Column("within", Double, nullable=False, comment="sum of unbiased outcome variances over rows of 2 or more trials"),
    Column("within_rows", BigInteger, nullable=False),
    Column("inverse_trials", Double, nullable=False, comment="sum of 1 / trials over rows"),
)

given = Table(
    "prior_given",
    metadata,
    Column("team", String, primary_key=True),
    Column("policy", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", Double, nullable=False),
)
