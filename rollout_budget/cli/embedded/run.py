"""What `up` does from its options to its end: hold the folder, start, show, and end everything whatever happened."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rollout_budget.cli.embedded.folder import held
from rollout_budget.cli.embedded.stack import Plan, Stack, Stopped
from rollout_budget.cli.events import Away, Ended, Ready, emit
from rollout_budget.cli.live.sampling import Motion, Sampler
from rollout_budget.cli.live.screen import Line, View, summary
from rollout_budget.cli.live.terminal import Signals
from rollout_budget.cli.live.top import looks, watch

NO_PRIOR = "from the prompts' own history"
FOOTER = "Ctrl-C ends everything   s sort   + - speed"


def up(plan: Plan, interval_s: float, *, as_json: bool, live: bool) -> None:
    """Run until Ctrl-C or SIGTERM.

    Raises:
        Usage: the folder or a port is taken.
        ChildFailed: a service ended by itself; the others have been ended too.
    """
    say = _silent if as_json else _say
    with held(plan.data) as folder, Signals() as signals:
        stack = Stack(plan, signals, say)
        try:
            ready = stack.start()
            folder.tell(ready)
            if as_json:
                emit(ready)
            else:
                sys.stdout.write("".join(f"{line}\n" for line in places(ready)))
                sys.stdout.flush()
            _show(ready, stack, signals, interval_s, as_json=as_json, live=live)
            if (failure := stack.failure()) is not None:
                raise failure
        except Stopped:
            pass
        finally:
            say("stopping")
            stack.stop()
    if as_json:
        emit(Ended(reason="stopped"))
    else:
        _say("stopped; the data stays")


def places(ready: Ready) -> list[str]:
    """Return where everything is, in lines that can be copied."""
    logs = f"logs {_near(str(Path(ready.allocator_log).parent))}"
    return [
        f"allocator {ready.allocator_url}   page {ready.dashboard_url}",
        f"prior     {ready.prior_url or NO_PRIOR}   {logs}",
        f"admin key {_near(ready.admin_key_file)}",
        f"team key  {_near(ready.team_key_file)}",
    ]


def _show(ready: Ready, stack: Stack, signals: Signals, interval_s: float, *, as_json: bool, live: bool) -> None:
    key = Path(ready.admin_key_file).read_text("utf-8")
    with Sampler(ready.allocator_url, key) as sampler:
        if live:
            above: tuple[Line, ...] = tuple(("", line) for line in places(ready))
            view = View(title="rollout-budget up", above=(*above, ("", "")), footer=FOOTER)
            watch(sampler, view, interval_s, signals, quits=False, done=stack.has_failed)
            return
        before: Motion | None = None
        for found in looks(sampler, interval_s, signals, stack.has_failed):
            if as_json:
                emit(found)
            elif isinstance(found, Away):
                _say(found.detail)
            elif before is None or _moved(found.totals, before):
                _say(" · ".join(summary(found.totals)))
                before = found.totals


def _moved(now: Motion, before: Motion) -> bool:
    counted = ("used", "held", "granted", "refused", "groups")
    return any(getattr(now, name) != getattr(before, name) for name in counted)


def _near(path: str) -> str:
    """Return a path as it is shortest from here."""
    return min(os.path.relpath(path), path, key=len)


def _say(line: str) -> None:
    sys.stdout.write(f"up: {line}\n")
    sys.stdout.flush()


def _silent(_line: str) -> None:
    """Programs read events: the first is `ready`, the last `ended`."""
