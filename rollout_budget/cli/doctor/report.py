"""What the doctor found: one line a check, and whether all is well enough to work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import computed_field

from rollout_budget.wire.common import Wire

State = Literal["ok", "warn", "fail"]


class Check(Wire):
    """One thing that was looked at: `said` is what was found, `do` what to do about it, empty where nothing is needed."""

    name: str
    state: State
    said: str
    do: str = ""


class Report(Wire):
    """All checks, in the order in which they were made."""

    checks: list[Check]

    @computed_field(description="Whether nothing failed; warnings do not count.")  # type: ignore[prop-decorator]  # pydantic's way
    @property
    def healthy(self) -> bool:
        """Whether nothing failed."""
        return all(one.state != "fail" for one in self.checks)


def ok(name: str, said: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name=name, state="ok", said=said)


def warn(name: str, said: str, do: str) -> Check:
    """Return a check that found something worth knowing, with which it works all the same."""
    return Check(name=name, state="warn", said=said, do=do)


def fail(name: str, said: str, do: str) -> Check:
    """Return a check that found something that does not work."""
    return Check(name=name, state="fail", said=said, do=do)


def lines(checks: Sequence[Check]) -> str:
    """Return the checks for people; what to do stands below what was found."""
    width = max(len(one.name) for one in checks)
    found = []
    for one in checks:
        found.append(f"{one.state:<4}  {one.name:<{width}}  {one.said}\n")
        if one.do:
            found.append(f"{'':<{width + 8}}-> {one.do}\n")
    counted = {state: sum(one.state == state for one in checks) for state in ("ok", "warn", "fail")}
    return "".join(found) + ", ".join(f"{count} {state}" for state, count in counted.items()) + "\n"
