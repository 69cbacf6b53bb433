"""The command and its options; what is looked at is `examine`'s."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

from rollout_budget.cli.connection import ADMIN_KEY, DEFAULT_URL, TEAM_KEY, URL
from rollout_budget.cli.doctor import PRIOR_KEY, PRIOR_URL
from rollout_budget.cli.parsing import REFUSED_STATUS, Commands, Options, Usage

DATA = Path(".rollout-budget")


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.command(
        "doctor",
        "Look at software, GPU, services, keys, database, disk, ports and vLLM servers, and say what to do.\n\n"
        "Changes nothing. Ends with 1 where something fails; warnings do not count. Without options it looks at what\n"
        "`rollout-budget up` runs from its data folder, or at the addresses and keys in the environment.",
        "  rollout-budget doctor\n"
        "  rollout-budget doctor --vllm http://gpu1:8000 --vllm http://gpu2:8000\n"
        "  rollout-budget doctor --url https://allocator.example --key-file team.key --json",
        _doctor,
        key=None,
        output="print all checks as JSON",
    )
    where = parser.add_argument_group("what to look at")
    where.add_argument("--data", type=Path, default=DATA, metavar="FOLDER", help=f"of `up` (default: {DATA})")
    where.add_argument("--url", help=f"allocator (default: ${URL}, else that of `up`, else {DEFAULT_URL})")
    where.add_argument(
        "--key-file", type=Path, metavar="FILE", help=f"a team's key (default: ${TEAM_KEY}, else that of `up`)"
    )
    where.add_argument("--admin-key-file", type=Path, metavar="FILE", help=f"default: ${ADMIN_KEY}, else that of `up`")
    where.add_argument("--prior-url", help=f"prior service (default: ${PRIOR_URL}, else that of `up`)")
    where.add_argument("--prior-key-file", type=Path, metavar="FILE", help=f"default: ${PRIOR_KEY}, else that of `up`")
    where.add_argument(
        "--database", metavar="URL", help="the allocator's, without its password, which comes from $PGPASSWORD"
    )
    where.add_argument("--vllm", action="append", default=[], metavar="URL", help="a vLLM server; may be given again")


def _doctor(options: Options) -> None:
    from rollout_budget.cli.doctor.examine import Places, checks  # noqa: PLC0415 - locks of files as Unix has them
    from rollout_budget.cli.doctor.report import Report, lines  # noqa: PLC0415 - only here

    try:
        password = urlsplit(options.database or "").password
    except ValueError as error:
        raise Usage(f"--database: no address: {error}") from None
    if password:
        raise Usage("--database: leave the password out, which `ps` shows to everybody, and set PGPASSWORD")
    places = Places(
        data=options.data,
        url=options.url,
        key_file=options.key_file,
        admin_key_file=options.admin_key_file,
        prior_url=options.prior_url,
        prior_key_file=options.prior_key_file,
        database=options.database,
        vllm=tuple(options.vllm),
    )
    report = Report(checks=list(checks(places)))
    sys.stdout.write(report.model_dump_json(indent=2) + "\n" if options.json else lines(report.checks))
    if not report.healthy:
        sys.exit(REFUSED_STATUS)
