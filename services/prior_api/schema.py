"""Tables of the prior service. All of a team's data carries the team in its primary key.

Raw rows are kept for good; what requests read are sums, written in the transaction that brings the rows, so that no
request reads more rows the more evidence there is. `upgrade.py` brings older databases here.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, MetaData, String, Table

VERSION = 2
"""Of these tables. 1 had neither sums by prompt, key and score nor a table that says which version it is."""

metadata = MetaData()

state = Table(
    "prior_schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
)

prompts = Table(
    "prior_prompts",
    metadata,
    Column("team", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("text_hash", String(64), nullable=False),
    Column("text", LargeBinary, nullable=False, comment="UTF-8; kept because another encoder needs it again"),
    Index("prior_prompts_hash", "team", "text_hash"),
)

vectors = Table(
    "prior_vectors",
    metadata,
    Column("team", String, primary_key=True),
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
    Index("prior_policies_own", "team", "created"),
    Index("prior_policies_scope", "scope", "created"),
)

evidence = Table(
    "prior_rows",
    metadata,
    Column("team", String, primary_key=True),
    Column("policy", String, primary_key=True),
    Column("id", String, primary_key=True),
    Column("key", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("successes", Double, nullable=False),
    Column("trials", Integer, nullable=False),
    Column("given", Double, comment="value that was given for this key and version before this row came"),
    Column("serial", BigInteger, comment="place of the row in its policy, from 1, in order of receipt"),
    Column("public", Double, comment="successes with noise, all that other teams' values rest on; null: private"),
    Column("blur", Double, comment="variance of that noise"),
    Index("prior_rows_serial", "team", "policy", "serial"),
)
Index(
    "prior_rows_public",
    evidence.c.team,
    evidence.c.policy,
    evidence.c.version,
    evidence.c.id,
    sqlite_where=evidence.c.public.is_not(None),
    postgresql_where=evidence.c.public.is_not(None),
)

cells = Table(
    "prior_cells",
    metadata,
    Column("team", String, primary_key=True),
    Column("policy", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("draw", Integer, primary_key=True, comment="hash of the key: which rows of a version enter a bounded fit"),
    Column("key", String, primary_key=True),
    Column("successes", Double, nullable=False, comment="sum over rows, each rounded to a multiple of 2^-30"),
    Column("trials", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

histories = Table(
    "prior_histories",
    metadata,
    Column("team", String, primary_key=True),
    Column("policy", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("rows", BigInteger, nullable=False, comment="of all versions"),
    Column("recent", LargeBinary, nullable=False, comment="cells of the newest versions, see `histories.py`"),
    sqlite_with_rowid=False,
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

scores = Table(
    "prior_scores",
    metadata,
    Column("team", String, primary_key=True),
    Column("policy", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("bin", Integer, primary_key=True, comment="tenth of [0, 1] that the given value is in"),
    Column("rows", BigInteger, nullable=False),
    Column("values", Double, nullable=False),
    Column("rates", Double, nullable=False),
    Column("squared_rates", Double, nullable=False),
    Column("squared_errors", Double, nullable=False),
    Column("inverse_trials", Double, nullable=False),
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
