"""`rollout-budget admin`: teams, their limits, and the log of changes; keys are in `keys`."""

from __future__ import annotations

from rollout_budget.cli import keys, limits, show, usage
from rollout_budget.cli.changes import add_options, print_changes
from rollout_budget.cli.connection import ADMIN_KEY, admin
from rollout_budget.cli.parsing import Commands, Options, Usage
from rollout_budget.wire import TeamCreate, TeamPatch, TeamsAnswer, TeamSummary
from rollout_budget.wire.access import MAX_PAGE

_SET = """\
  rollout-budget admin budget set vision --rollouts 20000 --rollouts-per-day 2000
  rollout-budget admin budget set vision --rollouts-per-day none       lifts that limit, leaves the others
  rollout-budget admin budget set vision --replace --rollouts 50000    lifts all others
  rollout-budget admin budget set vision --rollouts 0                  no new grants; what is held can be settled"""


def add(commands: Commands) -> None:
    """Add the commands."""
    under = commands.group(
        "admin",
        "What whoever runs the allocator does: teams, their limits, keys, and who changed what. Needs an admin key in\n"
        f"{ADMIN_KEY} or --key-file (embedded: .rollout-budget/allocator/admin.key).",
        "  rollout-budget admin teams create vision --rollouts-per-day 2000\n"
        "  rollout-budget admin keys create vision --label trainer --file vision.key\n"
        "  rollout-budget admin budget show vision\n"
        "  rollout-budget admin usage --team vision --by run,day\n"
        "  rollout-budget admin changes --team vision",
    )
    _add_teams(under)
    keys.add(under)
    _add_budget(under)
    usage.add_for_admins(under)
    changes = under.command(
        "changes",
        "Show who changed which team, limit, run or key, when, and how. Oldest first.",
        "  rollout-budget admin changes --team vision\n  rollout-budget admin changes --after 120 --json",
        _changes,
        key=ADMIN_KEY,
    )
    changes.add_argument("--team", help="changes to this team alone")
    add_options(changes)


def _add_teams(under: Commands) -> None:
    teams = under.group(
        "teams",
        "Create, list, show, rename, close and reopen teams. A team is never deleted: what it used stays on record.",
        "  rollout-budget admin teams create vision --name 'Vision group' --rollouts 20000\n"
        "  rollout-budget admin teams list\n"
        "  rollout-budget admin teams close vision",
    )
    create = teams.command(
        "create",
        "Create a team with its limits. The same command again is harmless.",
        "  rollout-budget admin teams create vision --name 'Vision group' --rollouts-per-day 2000",
        _create_team,
        key=ADMIN_KEY,
    )
    create.add_argument("team", help="its id, for good")
    create.add_argument("--name", help="its name for people")
    limits.add_options(create, "Those not named do not exist.")
    teams.command("list", "List all teams.", "  rollout-budget admin teams list --json", _list_teams, key=ADMIN_KEY)
    shown = teams.command(
        "show", "Show a team and its limits.", "  rollout-budget admin teams show vision", _show_team, key=ADMIN_KEY
    )
    shown.add_argument("team")
    rename = teams.command(
        "rename",
        "Give a team another name. Its id stays.",
        "  rollout-budget admin teams rename vision 'Vision and video'",
        _rename_team,
        key=ADMIN_KEY,
    )
    rename.add_argument("team")
    rename.add_argument("name", help="its new name")
    _add_closing(teams)


def _add_closing(teams: Commands) -> None:
    closing = teams.command(
        "close",
        "Close a team: all its keys end, and nothing more is granted to it.\n\n"
        "Nothing is deleted: usage, record and log stay. Trainers that still draw cannot report it any more, so let them\n"
        "finish first: 'budget set TEAM --rollouts 0' stops new grants and leaves the keys. 'reopen' undoes it, but for\n"
        "the keys.",
        "  rollout-budget admin teams close vision",
        _close_team,
        key=ADMIN_KEY,
    )
    closing.add_argument("team")
    reopening = teams.command(
        "reopen",
        "Reopen a closed team with the limits that it had. Its keys have ended for good: make new ones.",
        "  rollout-budget admin teams reopen vision\n  rollout-budget admin keys create vision --file vision.key",
        _reopen_team,
        key=ADMIN_KEY,
    )
    reopening.add_argument("team")


def _add_budget(under: Commands) -> None:
    budget = under.group(
        "budget", "Show and set a team's limits.", "  rollout-budget admin budget show vision\n" + _SET
    )
    shown = budget.command(
        "show",
        "Show a team's limits, what it has used, and what is left.",
        "  rollout-budget admin budget show vision",
        _show_budget,
        key=ADMIN_KEY,
    )
    shown.add_argument("team")
    setting = budget.command(
        "set",
        "Set a team's limits. Those not named stay as they are; below what is used already, only new grants stop.",
        _SET,
        _set_budget,
        key=ADMIN_KEY,
    )
    setting.add_argument("team")
    setting.add_argument("--replace", action="store_true", help="lift every limit that is not named")
    limits.add_options(setting, "Those not named stay as they are; 'none' lifts one.")


def _create_team(options: Options) -> None:
    request = TeamCreate(team=options.team, name=options.name, limits=limits.limits(limits.named(options)))
    with admin(options) as client:
        team = client.create_team(request)
    show.one(options, team)


def _list_teams(options: Options) -> None:
    found: list[TeamSummary] = []
    with admin(options) as client:
        page = client.list_teams(limit=MAX_PAGE)
        found += page.teams
        while page.next is not None:
            page = client.list_teams(after=page.next, limit=MAX_PAGE)
            found += page.teams
    rows = [
        (team.team, "open" if team.closed_at is None else "closed", team.created_at, team.name or "") for team in found
    ]
    show.answer(options, TeamsAnswer(teams=found), rows, ("TEAM", "STATUS", "CREATED", "NAME"))


def _show_team(options: Options) -> None:
    with admin(options) as client:
        team = client.show_team(options.team)
    show.one(options, team)


def _rename_team(options: Options) -> None:
    with admin(options) as client:
        team = client.rename_team(options.team, TeamPatch(name=options.name))
    show.one(options, team)


def _close_team(options: Options) -> None:
    with admin(options) as client:
        team = client.close_team(options.team)
    show.one(options, team)


def _reopen_team(options: Options) -> None:
    with admin(options) as client:
        team = client.reopen_team(options.team)
    show.one(options, team)


def _show_budget(options: Options) -> None:
    with admin(options) as client:
        view = client.show_budget(options.team)
    show.one(options, view)


def _set_budget(options: Options) -> None:
    named = limits.named(options)
    if not named and not options.replace:
        raise Usage("name a limit to set, such as --rollouts 20000, or --replace alone to lift them all")
    limits.limits(named)
    with admin(options) as client:
        if options.replace:
            view = client.set_budget(options.team, limits.limits(named))
        else:
            stands = client.show_budget(options.team).limits
            view = client.set_budget(options.team, limits.limits({**stands.model_dump(), **named}), expected=stands)
    show.one(options, view)


def _changes(options: Options) -> None:
    with admin(options) as client:
        print_changes(
            options,
            lambda after, limit: client.list_changes(
                team=options.team, subject=options.subject, after=after, limit=limit
            ),
        )
