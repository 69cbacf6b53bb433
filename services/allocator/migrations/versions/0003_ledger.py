"""Units, policies and sums of usage in the ledger. The release before this one runs on the result.

That release writes entries without a policy, which this one never does: a trigger adds those to the sums of usage, and
what they say of tokens and time to the accounts. Its rows of a new day, month or step have the limits in rollouts alone: a
trigger gives them the others, which hold for whoever grants there next.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ACCOUNTS = ("tokens", "tokens_reserved", "milliseconds", "milliseconds_reserved", "tokens_each", "milliseconds_each")
SUMS = (
    "granted",
    "reserved",
    "committed",
    "released",
    "expired",
    "refused",
    "overage",
    "groups_closed",
    "references",
    "tokens",
    "milliseconds",
    "extra",
    "shadow_refused",
    "tokens_reserved",
    "tokens_overage",
    "milliseconds_reserved",
    "milliseconds_overage",
)
SIGNS = {
    "granted": {"reserve": 1},
    "reserved": {"reserve": 1, "commit": -1, "release": -1, "expire": -1},
    "committed": {"commit": 1},
    "released": {"release": 1},
    "expired": {"expire": 1},
    "refused": {"refuse": 1},
    "overage": {"overage": 1},
}
MILLISECONDS = "CAST(round({0}seconds * 1000) AS BIGINT)"
SCOPES = (
    ("''", "'total'", "true"),
    ("''", "'day:' || {0}day", "true"),
    ("''", "'month:' || substr({0}day, 1, 7)", "true"),
    ("{0}run", "'total'", "true"),
    ("{0}run", "'step:' || CAST({0}step AS VARCHAR)", "{0}step IS NOT NULL"),
)
"""Run and span of each account that an entry counts on, and whether it does."""


def _adds(row: str) -> dict[str, str]:
    """Return what an entry adds to the sums of usage, as SQL; `row` is how its columns are named."""
    adds = {
        name: f"CASE {row}kind "
        + " ".join(f"WHEN '{kind}' THEN {sign} * {row}rollouts" for kind, sign in signs.items())
        + " ELSE 0 END"
        for name, signs in SIGNS.items()
    }
    adds["groups_closed"] = f"CASE WHEN {row}kind = 'close' AND {row}reference > 0 THEN 1 ELSE 0 END"
    adds["references"] = f"CASE WHEN {row}kind = 'close' THEN {row}reference ELSE 0 END"
    adds["tokens"] = f"{row}tokens"
    adds["milliseconds"] = MILLISECONDS.format(row)
    adds["extra"] = f"CASE WHEN {row}kind = 'reserve' AND {row}reservation NOT LIKE '%/0' THEN {row}rollouts ELSE 0 END"
    return adds


def _upsert(table: str, keys: tuple[str, ...], names: tuple[str, ...]) -> str:
    moved = ", ".join(f'"{name}" = {table}."{name}" + excluded."{name}"' for name in names)
    return f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {moved}"


def _fill() -> list[str]:
    adds = _adds("")
    sums = ", ".join(f"CAST(sum({adds[name]}) AS BIGINT)" for name in adds)
    columns = ", ".join(f'"{name}"' for name in adds)
    into = f"INSERT INTO usage_sums (team, run, policy, day, {columns})"
    statements = [f"{into} SELECT team, run, '', day, {sums} FROM entries WHERE true GROUP BY team, run, day"]  # noqa: S608  names of this file
    for run, span, applies in SCOPES:
        own, window = run.format("e."), span.format("e.")
        statements.append(
            "INSERT INTO accounts (team, run, span, limit_rollouts, tokens, milliseconds) "  # noqa: S608  names of this file
            f"SELECT e.team, {own}, {window}, (SELECT p.limit_rollouts FROM accounts p WHERE p.team = e.team "
            f"AND p.run = {own} AND p.span = {_pattern(span)}), CAST(sum(e.tokens) AS BIGINT), "
            f"CAST(sum({MILLISECONDS.format('e.')}) AS BIGINT) FROM entries e "
            f"WHERE {applies.format('e.')} AND (e.tokens > 0 OR e.seconds > 0) "
            f"GROUP BY e.team{_grouping(run, span)} {_upsert('accounts', KEY, UNITS)}"
        )
    return statements


KEY, UNITS = ("team", "run", "span"), ("tokens", "milliseconds")


def _pattern(span: str) -> str:
    """Return the span whose limits a row of this span copies."""
    return span.partition(" ")[0]


def _grouping(run: str, span: str) -> str:
    parts = [part for part, text in (("e.run", run), ("e.step", span)) if part.removeprefix("e.") in text]
    parts += ["e.day"] if "day:" in span else ["substr(e.day, 1, 7)"] if "month:" in span else []
    return "".join(f", {part}" for part in parts)


def _catch_up() -> list[str]:
    """Return the statements that a trigger runs for an entry without a policy."""
    adds = _adds("NEW.")
    columns = ", ".join(f'"{name}"' for name in adds)
    into = f"INSERT INTO usage_sums (team, run, policy, day, {columns})"
    upsert = _upsert("usage_sums", ("team", "run", "policy", "day"), tuple(adds))
    statements = [f"{into} SELECT NEW.team, NEW.run, '', NEW.day, {', '.join(adds.values())} WHERE true {upsert}"]
    for run, span, applies in SCOPES:
        own, window = run.format("NEW."), span.format("NEW.")
        statements.append(
            "INSERT INTO accounts (team, run, span, limit_rollouts, tokens, milliseconds) "  # noqa: S608  names of this file
            f"SELECT NEW.team, {own}, {window}, (SELECT p.limit_rollouts FROM accounts p WHERE p.team = NEW.team "
            f"AND p.run = {own} AND p.span = {_pattern(span)}), NEW.tokens, {MILLISECONDS.format('NEW.')} "
            f"WHERE {applies.format('NEW.')} AND (NEW.tokens > 0 OR NEW.seconds > 0) " + _upsert("accounts", KEY, UNITS)
        )
    return statements


def _trigger(dialect: str) -> list[str]:
    body = "; ".join(_catch_up()) + ";"
    if dialect == "sqlite":
        return [f"CREATE TRIGGER entries_catch_up AFTER INSERT ON entries WHEN NEW.policy IS NULL BEGIN {body} END"]
    function = f"FUNCTION entries_catch_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$"
    when = "AFTER INSERT ON entries FOR EACH ROW WHEN (NEW.policy IS NULL)"
    return [
        f"CREATE {function}",
        f"CREATE TRIGGER entries_catch_up {when} EXECUTE FUNCTION entries_catch_up()",
    ]


INHERIT = """
UPDATE accounts SET limit_tokens = pattern.limit_tokens, limit_milliseconds = pattern.limit_milliseconds,
warn_at = pattern.warn_at, shadow = pattern.shadow FROM accounts AS pattern
WHERE accounts.team = NEW.team AND accounts.run = NEW.run AND accounts.span = NEW.span
AND pattern.team = NEW.team AND pattern.run = NEW.run AND pattern.span =
CASE WHEN NEW.span LIKE 'day:%' THEN 'day:' WHEN NEW.span LIKE 'month:%' THEN 'month:' ELSE 'step:' END;
"""
WINDOW = """
NEW.span LIKE '%:_%' AND NEW.limit_tokens IS NULL AND NEW.limit_milliseconds IS NULL
AND NEW.warn_at = 0.8 AND NOT NEW.shadow
"""
"""Whether a new row is of a window and has nothing but what the release before writes."""


def _inherit(dialect: str) -> list[str]:
    """Return the statements that make the trigger of the accounts."""
    if dialect == "sqlite":
        return [f"CREATE TRIGGER accounts_inherit AFTER INSERT ON accounts WHEN {WINDOW} BEGIN {INHERIT} END"]
    body = f"RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {INHERIT} RETURN NULL; END $$"
    when = f"AFTER INSERT ON accounts FOR EACH ROW WHEN ({WINDOW})"
    return [
        f"CREATE FUNCTION accounts_inherit() {body}",
        f"CREATE TRIGGER accounts_inherit {when} EXECUTE FUNCTION accounts_inherit()",
    ]


def upgrade() -> None:
    for name in ("limit_tokens", "limit_milliseconds"):
        op.add_column("accounts", sa.Column(name, sa.BigInteger(), nullable=True))
    for name in ACCOUNTS:
        op.add_column("accounts", sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("accounts", sa.Column("warn_at", sa.Double(), server_default=sa.text("0.8"), nullable=False))
    op.add_column("accounts", sa.Column("shadow", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column(
        "reservations", sa.Column("policy", sa.String(length=200), server_default=sa.text("''"), nullable=False)
    )
    for name in ("tokens_each", "milliseconds_each"):
        op.add_column("reservations", sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    for name in ("milliseconds", "held_tokens", "held_milliseconds"):
        op.add_column("entries", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("entries", sa.Column("policy", sa.String(length=200), nullable=True))
    op.add_column("entries", sa.Column("extra", sa.Boolean(), nullable=True))
    op.create_table(
        "usage_sums",
        *(sa.Column(name, sa.String(length=200), nullable=False) for name in ("team", "run", "policy")),
        sa.Column("day", sa.String(length=10), nullable=False),
        *(sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False) for name in SUMS),
        sa.PrimaryKeyConstraint("team", "run", "policy", "day", name=op.f("pk_usage_sums")),
    )
    op.create_index("ix_entries_team_entry", "entries", ["team", "entry_id"], unique=False)
    op.create_index(
        "ix_entries_overage",
        "entries",
        ["team", "entry_id"],
        unique=False,
        sqlite_where=sa.text("kind = 'overage'"),
        postgresql_where=sa.text("kind = 'overage'"),
    )
    op.drop_index("ix_entries_team_run", table_name="entries")
    dialect = op.get_bind().dialect.name
    for statement in [*_fill(), *_trigger(dialect), *_inherit(dialect)]:
        op.get_bind().exec_driver_sql(statement.replace("%", "%%") if dialect == "postgresql" else statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER entries_catch_up ON entries")
        op.execute("DROP FUNCTION entries_catch_up")
        op.execute("DROP TRIGGER accounts_inherit ON accounts")
        op.execute("DROP FUNCTION accounts_inherit")
    else:
        op.execute("DROP TRIGGER entries_catch_up")
        op.execute("DROP TRIGGER accounts_inherit")
    op.create_index("ix_entries_team_run", "entries", ["team", "run"], unique=False)
    op.drop_index("ix_entries_overage", table_name="entries")
    op.drop_index("ix_entries_team_entry", table_name="entries")
    op.drop_table("usage_sums")
    for name in ("extra", "policy", "held_milliseconds", "held_tokens", "milliseconds"):
        op.drop_column("entries", name)
    for name in ("milliseconds_each", "tokens_each", "policy"):
        op.drop_column("reservations", name)
    for name in ("shadow", "warn_at", *reversed(ACCOUNTS), "limit_milliseconds", "limit_tokens"):
        op.drop_column("accounts", name)
