"""A journal on disk: what a killed process had not told the allocator yet, its successor tells first.

Owns the file: a line for each close before it is sent, with what is needed to send it again unchanged, and a line for each
that was answered or refused. It is removed once nothing is left to tell, so while the service answers it holds a step at
most. Groups that were not closed are not in it: whoever goes on opens and reports them again.

A killed process loses nothing; a machine that loses power may lose the last closes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rollout_budget.client.journal import Close, Entry, Journal, Key, Open, RunState, Step
from rollout_budget.errors import InvalidInput, RolloutBudgetError
from rollout_budget.lines import append_line, read_lines
from rollout_budget.wire import CloseGroup, RunSpec

_ENTRY = TypeAdapter(Entry)
_SPEC = TypeAdapter(RunSpec)


class KeptJournal(Journal):
    """See `Journal`.

    Args:
        path: the file; its folder exists.

    Raises:
        InvalidInput: the file is no such record.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        for number, line in enumerate(read_lines(path), start=1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidInput(f"{path} line {number} is no close of a group: {error}") from error

    def close(self, run_id: str, groups: Sequence[CloseGroup]) -> list[Entry]:
        """See `Journal.close`; returns once the file has it."""
        fresh = super().close(run_id, groups)
        if fresh:
            spec = self.run(run_id).spec.model_dump(mode="json", exclude_unset=True)
            entries = [_ENTRY.dump_python(entry, mode="json", exclude_unset=True, include=_SENT) for entry in fresh]
            append_line(self._path, {"run": spec, "closed": entries})
        return fresh

    def done(self, step: Step, answer: object) -> None:
        """See `Journal.done`."""
        super().done(step, answer)
        if isinstance(step, Close):
            self._forget(step.run_id, map(Key.of, step.request.groups))

    def refuse(self, step: Step, error: RolloutBudgetError) -> str:
        """See `Journal.refuse`."""
        said = super().refuse(step, error)
        if said and isinstance(step, Open | Close):
            self._forget(step.run_id, map(Key.of, step.request.groups))
        return said

    def _forget(self, run_id: str, keys: Iterable[Key]) -> None:
        if self.has_untold:
            append_line(self._path, {"run_id": run_id, "told": [[key.group_id, key.attempt] for key in keys]})
        else:
            self._path.unlink(missing_ok=True)

    def _take(self, line: dict[str, Any]) -> None:
        if "told" in line:
            state = self.run(line["run_id"])
            for group_id, attempt in line["told"]:
                state.unopened.pop(Key(group_id, attempt), None)
                state.closing.pop(Key(group_id, attempt), None)
            return
        spec = _SPEC.validate_python(line["run"])
        state = self._runs.setdefault(spec.run_id, RunState(spec, known=False))
        for entry in map(_ENTRY.validate_python, line["closed"]):
            if entry.closing is None:
                raise ValueError("a close is missing")
            (state.closing if entry.known else state.unopened)[Key.of(entry.closing)] = entry


_SENT = {"opening", "lease_s", "known", "held", "asked", "closing"}
"""What of an entry is needed to tell the service and to answer who asks."""
