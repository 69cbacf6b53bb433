"""`rollout-budget runs`: which runs a team has, and what each has drawn."""

from __future__ import annotations

from typing import get_args

from rollout_budget.cli import show
from rollout_budget.cli.connection import TEAM_KEY, team
from rollout_budget.cli.paging import add_limit, pages
from rollout_budget.cli.parsing import Commands, Options
from rollout_budget.wire import RunsAnswer, RunStatus


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.command(
        "runs",
        "List your team's runs, in the order of their ids.\n\n"
        "USED rollouts were drawn, HELD were granted and are neither drawn nor given back yet.",
        "  rollout-budget runs\n  rollout-budget runs --status running --json | jq -r .runs[].run_id",
        _runs,
        key=TEAM_KEY,
    )
    parser.add_argument("--status", choices=get_args(RunStatus), help="runs of this status alone")
    parser.add_argument("--after", metavar="ID", help="only runs with ids after this one")
    add_limit(parser, "runs")


def _runs(options: Options) -> None:
    with team(options) as client:
        answers = list(
            pages(
                options,
                lambda after, limit: client.runs(status=options.status, after=after, limit=limit),
                lambda answer: len(answer.runs),
                options.after,
            )
        )
    found = [run for answer in answers for run in answer.runs]
    rows = [(run.run_id, run.policy, run.status, run.granted, run.used, run.held) for run in found]
    header = ("RUN", "POLICY", "STATUS", "GRANTED", "USED", "HELD")
    show.answer(options, RunsAnswer(runs=found, next=answers[-1].next), rows, header)
