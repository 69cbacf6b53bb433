"""`rollout-budget decide`: groups from a file, decisions out; by the service, or by the same rules in this process.

Owns reading and naming the place of a fault; the rules are `engine.stateless`'s, here and in the service.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from rollout_budget.cli import show
from rollout_budget.cli.connection import TEAM_KEY, team
from rollout_budget.cli.parsing import Commands, Options, Usage, not_negative, positive
from rollout_budget.errors import InvalidInput
from rollout_budget.wire import DecideAnswer, DecideRequest
from rollout_budget.wire.runs import Estimator, Stopping

SETTINGS = ("estimator", "stopping", "k_init", "k_max", "price", "budget")
"""Fields of the request that have an option, which wins over the file."""
MOST_FAULTS = 3
"""Faults that one error names: the first tells most, and further ones often follow from it."""
SHOWN = "GROUP ACTION MORE DRAWN MEAN PRIOR BASELINE WEIGHT REASON"


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.command(
        "decide",
        "Decide for groups from a JSON file: stop, or draw how many more, and from what baseline. Stores nothing.\n\n"
        "FILE holds a list of groups, or an object with 'groups' and settings, as POST /v1/decide takes it; - is standard\n"
        "input. A group has a group_id, the outcomes drawn so far (none before the first wave), and a prior if there is\n"
        "one. With --local the decision is made in this process, by the same rules, and needs no service and no key.",
        '  echo \'[{"group_id": "a", "prior": {"value": 0.3}, "outcomes": [1, 0, 0, 1]}]\' | rollout-budget decide - --local\n'
        "  rollout-budget decide groups.json --k-max 32 --json | jq '.groups[] | [.group_id, .more]'",
        _decide,
        key=TEAM_KEY,
    )
    parser.add_argument("file", metavar="FILE", help="JSON of groups, - for standard input")
    parser.add_argument("--local", action="store_true", help="decide in this process, without a service")
    parser.add_argument("--estimator", choices=get_args(Estimator), help="of the baseline (default: empirical_bayes)")
    parser.add_argument("--stopping", choices=get_args(Stopping), help="rule (default: posterior_variance)")
    parser.add_argument("--k-init", type=_size_or_auto, metavar="N", help="rollouts of the first wave (default: auto)")
    parser.add_argument("--k-max", type=positive, metavar="N", help="rollouts of a group at most (default: 16)")
    parser.add_argument("--price", type=float, metavar="X", help="what a rollout costs, in squared error")
    parser.add_argument("--budget", type=not_negative, metavar="N", help="further rollouts over all groups, at most")


def _decide(options: Options) -> None:
    request = _request(options)
    try:
        if options.local:
            from rollout_budget.client import SyncLocalAllocator  # noqa: PLC0415 - numpy, which other commands do without

            answer = SyncLocalAllocator().decide(request)
        else:
            with team(options) as client:
                answer = client.decide(request)
    except InvalidInput as error:
        raise Usage(f"{_name(options)}: {error}") from None
    show.answer(options, answer, _rows(answer), SHOWN.split())


def _request(options: Options) -> DecideRequest:
    read = _parsed(options)
    if isinstance(read, list):
        read = {"groups": read}
    if not isinstance(read, dict):
        raise Usage(f"{_name(options)}: a list of groups, or an object with 'groups', is needed")
    chosen = {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    try:
        return DecideRequest.model_validate_json(json.dumps({**read, **chosen}))
    except ValidationError as error:
        faults = [_fault(fault, read) for fault in error.errors()]
        more = f"; and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
        raise Usage(f"{_name(options)}: {'; '.join(faults[:MOST_FAULTS])}{more}") from None


def _parsed(options: Options) -> Any:
    try:
        text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Usage(f"{_name(options)}: no text in UTF-8") from None
    except OSError as error:
        raise Usage(f"{_name(options)}: {error.strerror}") from None
    try:
        return json.loads(text, parse_constant=_refused)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Usage(f"{_name(options)}: {place}: no JSON: {error.msg}") from None
    except ValueError as error:
        raise Usage(f"{_name(options)}: {error}") from None


def _refused(word: str) -> float:
    raise ValueError(f"{word} is no number that an outcome or a prior can have")


def _fault(fault: Any, read: dict[str, Any]) -> str:
    """Return where a fault is, by the group's own id too, and what it is."""
    place = list(fault["loc"])
    where = ".".join(map(str, place))
    named = _id_at(place, read)
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{where}{f' (group {named!r})' if named else ''}: {message}" if where else message


def _id_at(place: list[Any], read: dict[str, Any]) -> str:
    if len(place) < 2 or place[0] != "groups" or not isinstance(place[1], int):
        return ""
    group = read["groups"][place[1]]
    return str(group.get("group_id", "")) if isinstance(group, dict) else ""


def _rows(answer: DecideAnswer) -> list[tuple[object, ...]]:
    return [
        (
            one.group_id,
            one.action,
            one.more,
            one.ingredients.k,
            _rounded(one.ingredients.mean),
            _rounded(one.ingredients.prior),
            _rounded(one.baseline),
            _rounded(one.weight),
            one.reason,
        )
        for one in answer.groups
    ]


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _name(options: Options) -> str:
    return "standard input" if options.file == "-" else str(options.file)


def _size_or_auto(text: str) -> int | str:
    return text if text == "auto" else positive(text)
