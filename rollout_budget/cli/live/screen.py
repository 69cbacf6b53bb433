"""A snapshot as lines that fit a terminal, 80 by 24 or any other. Pure: no terminal, no clock, no service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rollout_budget.cli.live.sampling import Motion, RunNow, Snapshot, TeamNow

Line = tuple[str, str]
"""Style (of `terminal.STYLES`, or empty) and text."""
BAR = 6
"""Cells of the bar of a limit: as many as leave room for its name on 80 columns."""
NEAR, OVER = 0.8, 1.0
"""Shares of a limit from which on its line stands out: `warn_at`'s default, and its end."""
AROUND = 7
"""Lines of a body that are no row: totals, two blanks, two headers, two counts of what is left out."""
WITH_POLICY = 100
"""Columns from which on runs say their policy: below, names of runs need the room."""
NARROW = 8
"""What a name is cut down to at most."""

SORTS: Mapping[str, Callable[[Motion], tuple[float, ...]]] = {
    "rate": lambda one: (-(one.rollouts_per_s or 0.0), -one.used),
    "used": lambda one: (-one.used,),
    "held": lambda one: (-one.held, -one.used),
    "refused": lambda one: (-one.refused, -one.used),
    "saved": lambda one: (-one.saved, -one.used),
    "name": lambda _one: (),
}
"""Orders of teams and runs, in the order in which the key `s` goes through them; ties are by name."""


@dataclass(frozen=True, slots=True)
class View:
    """How a snapshot is to look: order, what stands above and below it."""

    sort: str = "rate"
    title: str = "rollout-budget top"
    above: tuple[Line, ...] = ()
    footer: str = ""
    notice: str = ""


def lines(snapshot: Snapshot | None, view: View, columns: int, rows: int) -> list[Line]:
    """Return at most `rows` lines of at most `columns` characters."""
    head: list[Line] = [("head", _title(snapshot, view)), *view.above]
    if view.notice:
        head.append(("over", view.notice))
    body = [] if snapshot is None else _body(snapshot, view, columns, max(rows - len(head) - bool(view.footer), 0))
    foot: list[Line] = [("dim", view.footer)] if view.footer else []
    space = max(rows - len(foot), 0)
    return [(style, fitted(text, columns)) for style, text in [*[*head, *body][:space], *foot]]


def fitted(text: str, width: int) -> str:
    """Return a text cut to a width, with an ellipsis where something is missing."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def rate(value: float | None) -> str:
    """Return a speed in three digits or so; a dash before it is known."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def summary(totals: Motion) -> list[str]:
    """Return what the totals say, the most important first."""
    return [
        f"{totals.used:,} used",
        f"{totals.held:,} held",
        f"{rate(totals.rollouts_per_s)} rollouts/s",
        f"{rate(totals.groups_per_s)} groups/s",
        f"mean group {_figure(totals.mean_group)}",
        f"{totals.refused:,} refused",
        f"{totals.saved:,} saved",
        f"{_percent(totals.extra_share)} after first waves",
    ]


def nearest(team: TeamNow) -> tuple[str, str]:
    """Return style and text of the limit that is nearest to its end: its share as a bar, its name, what is used of it."""
    use = team.nearest
    if use is None:
        return "", "no limit"
    full = min(round(use.share * BAR), BAR)
    style = "over" if use.share >= OVER else "near" if use.share >= NEAR else ""
    return style, f"{'█' * full}{'░' * (BAR - full)} {use.share:4.0%} {use.name} {use.used:,.0f} of {use.limit:,.0f}"


def _title(snapshot: Snapshot | None, view: View) -> str:
    if snapshot is None:
        return f"{view.title}  waiting for the first answer"
    whose = "all teams" if snapshot.scope == "admin" else "your team"
    return f"{view.title}  {snapshot.url}  {whose}  {snapshot.at:%H:%M:%SZ}"


def _body(snapshot: Snapshot, view: View, columns: int, rows: int) -> list[Line]:
    order = SORTS[view.sort]
    teams = sorted(sorted(snapshot.teams, key=lambda one: one.team), key=order)
    runs = sorted(sorted(snapshot.runs, key=lambda one: (one.team, one.run)), key=order)
    room = rows - AROUND
    for_teams = min(len(teams), max(room // 2, room - len(runs), 1))  # half of it, more where runs need less
    found: list[Line] = [("", _joined(summary(snapshot.totals), columns)), ("", "")]
    found += _teams(teams[:for_teams], len(teams) - for_teams + snapshot.teams_left_out, columns)
    found.append(("", ""))
    for_runs = max(rows - len(found) - 1, 0)
    if len(runs) > for_runs:
        for_runs = max(for_runs - 1, 0)
    return found + _runs(runs[:for_runs], len(runs) - for_runs, columns)


def _joined(parts: Sequence[str], width: int) -> str:
    """Return as many parts as fit."""
    line = parts[0]
    for part in parts[1:]:
        if len(line) + 3 + len(part) > width:
            break
        line += f" · {part}"
    return line


def _teams(teams: Sequence[TeamNow], more: int, columns: int) -> list[Line]:
    marks = [nearest(team) for team in teams]
    cells = [
        (
            team.team,
            f"{team.used:,}",
            f"{team.held:,}",
            "no limit" if team.available is None else f"{team.available:,}",
            rate(team.rollouts_per_s),
            f"{team.refused:,}",
            text,
        )
        for team, (_, text) in zip(teams, marks, strict=True)
    ]
    header = ("TEAM", "USED", "HELD", "LEFT", "/S", "REFUSED", "NEAREST LIMIT")
    return _table(header, cells, [style for style, _ in marks], columns, left={0, 6}, more=more)


def _runs(runs: Sequence[RunNow], more: int, columns: int) -> list[Line]:
    cells: list[tuple[str, ...]] = [
        (
            one.run,
            one.team,
            f"{one.used:,}",
            f"{one.held:,}",
            rate(one.rollouts_per_s),
            _figure(one.mean_group),
            _percent(one.extra_share),
            f"{one.refused:,}",
            f"{one.saved:,}",
            one.policy,
        )
        for one in runs
    ]
    header: tuple[str, ...] = ("RUN", "TEAM", "USED", "HELD", "/S", "GROUP", "EXTRA", "REFUSED", "SAVED", "POLICY")
    if columns < WITH_POLICY:
        header, cells = header[:-1], [row[:-1] for row in cells]
    return _table(header, cells, [""] * len(cells), columns, left={0, 1, 9}, more=more)


def _table(
    header: Sequence[str],
    cells: Sequence[Sequence[str]],
    styles: Sequence[str],
    columns: int,
    *,
    left: set[int],
    more: int,
) -> list[Line]:
    """Return aligned rows; the first column gives way where they would be too wide, then the last is cut off."""
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    fixed = sum(widths[1:-1]) + 2 * (len(widths) - 1) + len(header[-1])
    widths[0] = min(widths[0], max(columns - fixed, NARROW))
    texts = [_row(row, widths, left) for row in (header, *cells)]
    found = [("head", texts[0]), *zip(styles, texts[1:], strict=True)]
    return found + ([("dim", f"and {more:,} more")] if more > 0 else [])


def _row(row: Sequence[str], widths: Sequence[int], left: set[int]) -> str:
    parts = [
        fitted(cell, width).ljust(width) if place in left else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(parts).rstrip()


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
