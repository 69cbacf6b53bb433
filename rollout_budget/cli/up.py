"""`rollout-budget up`: both services in one terminal, embedded, with a live view; nothing of them stays when it ends."""

from __future__ import annotations

from pathlib import Path

from rollout_budget.cli.parsing import Commands, Options, Usage, interval, port

DATA = Path(".rollout-budget")
"""The same folder that the services take when they are started by hand."""
EVERY_S = 2.0


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.command(
        "up",
        "Start prior service and allocator here, embedded, and watch budgets and runs until Ctrl-C.\n\n"
        "Loopback only, a SQLite file each, keys made on the first start. Data, keys and logs stay in the folder, and the\n"
        "next start goes on from there. The services end with this command, however it ends.",
        "  rollout-budget up --demo\n"
        "  rollout-budget up --data /var/tmp/budget --port 0 --plain\n"
        "  rollout-budget up --json | jq -r 'select(.event == \"ready\").allocator_url'",
        _up,
        key=None,
        output="print where everything is as a line of JSON, then each look as another",
    )
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER", help=f"data, keys, logs (default: {DATA})")
    usual = "a free one; by default {}, or a free one where that is taken"
    parser.add_argument("--port", type=port, metavar="N", help=f"of the allocator, 0 for {usual.format(8100)}")
    parser.add_argument(
        "--prior-port", type=port, metavar="N", help=f"of the prior service, 0 for {usual.format(8101)}"
    )
    parser.add_argument(
        "--no-prior", action="store_true", help="without the prior service: priors from the prompts' own history"
    )
    parser.add_argument("--demo", action="store_true", help="also run the demo's load, so that something moves")
    parser.add_argument(
        "--interval", type=interval, default=EVERY_S, metavar="TIME", help=f"pause between looks (default {EVERY_S:g}s)"
    )
    parser.add_argument(
        "--plain",
        "--no-live",
        action="store_true",
        help="print lines in place of a live view; so it is without a terminal",
    )


def _up(options: Options) -> None:
    from rollout_budget.cli.embedded import run  # noqa: PLC0415 - locks and terminals as Unix has them
    from rollout_budget.cli.embedded.needs import missing  # noqa: PLC0415 - only here
    from rollout_budget.cli.embedded.stack import Plan  # noqa: PLC0415 - as above
    from rollout_budget.cli.live.terminal import is_terminal  # noqa: PLC0415 - as above

    extras = ["allocator"] if options.no_prior else ["allocator", "prior"]
    if lacking := missing(extras):
        less = "" if options.no_prior or not missing(["prior"]) or missing(["allocator"]) else ", or add --no-prior"
        raise Usage(
            f"the services need {', '.join(lacking)}: run pip install 'rollout-budget[{','.join(extras)}]'{less}"
        )
    plan = Plan(
        options.data.resolve(),
        allocator_port=options.port,
        prior_port=options.prior_port,
        with_prior=not options.no_prior,
        with_demo=options.demo,
    )
    live = is_terminal() and not options.plain and not options.json
    run.up(plan, options.interval, as_json=options.json, live=live)
