"""`rollout-budget top` behind its options: looks, and shows each look, until told to stop. `up` shows its looks the same way."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from rollout_budget.cli.events import Away, Ended, emit
from rollout_budget.cli.live.sampling import Sampler, Snapshot
from rollout_budget.cli.live.screen import SORTS, View, lines
from rollout_budget.cli.live.terminal import Signals, Terminal
from rollout_budget.errors import ServiceError, Unauthorized

KEYS = "q quit   s sort   + - speed"
FASTER, SLOWEST_S, FASTEST_S = 2.0, 60.0, 0.25
"""What `+` and `-` change the interval by, and its bounds."""
WIDE = (120, 10_000)
"""Columns and rows of a look that is no screen's: no row is left out."""

Done = Callable[[], bool]


def never() -> bool:
    """Nothing but a signal ends it."""
    return False


def once(sampler: Sampler, sort: str, *, as_json: bool) -> None:
    """Print one look: as JSON, or as the screen would show it, with all rows."""
    snapshot = sampler.look()
    sys.stdout.write(snapshot.model_dump_json(indent=2) + "\n" if as_json else _page(snapshot, sort))


def run(sampler: Sampler, sort: str, interval_s: float, *, as_json: bool, live: bool) -> None:
    """Show looks until q, Ctrl-C or SIGTERM."""
    sampler.look()  # a wrong key or address is said in one line, not on a screen
    with Signals() as signals:
        if live:
            watch(sampler, View(sort, footer=KEYS), interval_s, signals, quits=True)
            return
        for found in looks(sampler, interval_s, signals):
            if as_json:
                emit(found)
            else:
                sys.stdout.write((_page(found, sort) if isinstance(found, Snapshot) else found.detail) + "\n")
                sys.stdout.flush()
    if as_json:
        emit(Ended(reason="stopped"))


def looks(sampler: Sampler, interval_s: float, signals: Signals, done: Done = never) -> Iterator[Snapshot | Away]:
    """Look again and again until a signal or `done`; a look without an answer says why."""
    while signals.stop is None and not done():
        yield look(sampler)
        until = time.monotonic() + interval_s
        while signals.stop is None and not done() and time.monotonic() < until:
            signals.wait(until - time.monotonic())


def watch(
    sampler: Sampler, view: View, interval_s: float, signals: Signals, *, quits: bool, done: Done = never
) -> None:
    """Draw looks on the terminal until a signal, `done`, or, if it `quits`, the key q."""
    snapshot: Snapshot | None = None
    keys, notice, due = view.footer, "", 0.0
    with Terminal(signals) as terminal:
        while signals.stop is None and not done():
            if time.monotonic() >= due:
                found = look(sampler)
                snapshot, notice = (found, "") if isinstance(found, Snapshot) else (snapshot, found.detail)
                due = time.monotonic() + interval_s
            footer = f"every {interval_s:g} s, by {view.sort}   {keys}"
            terminal.draw(lines(snapshot, replace(view, notice=notice, footer=footer), *terminal.size))
            pressed = terminal.key(due - time.monotonic())
            if quits and pressed in {"q", "Q"}:
                return
            due = 0.0 if pressed else due
            view, interval_s = _obey(pressed, view, interval_s)


def look(sampler: Sampler) -> Snapshot | Away:
    """Look once; say so where there is no answer.

    Raises:
        Unauthorized: the key is not accepted any more; asking again would change nothing.
    """
    try:
        return sampler.look()
    except Unauthorized:
        raise
    except ServiceError as error:
        return Away(detail=f"no answer, asking again: {error}")


def _page(snapshot: Snapshot, sort: str) -> str:
    return "".join(f"{text}\n" for _, text in lines(snapshot, View(sort), *WIDE))


def _obey(pressed: str, view: View, interval_s: float) -> tuple[View, float]:
    if pressed == "s":
        order = list(SORTS)
        return replace(view, sort=order[(order.index(view.sort) + 1) % len(order)]), interval_s
    if pressed in {"+", "="}:
        return view, max(interval_s / FASTER, FASTEST_S)
    if pressed == "-":
        return view, min(interval_s * FASTER, SLOWEST_S)
    return view, interval_s
