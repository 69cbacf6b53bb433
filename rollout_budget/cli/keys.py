"""`rollout-budget admin keys`: create, list, rotate, revoke.

A new token is printed once, and with `--file` written where only its owner can read it. The file is made before the key,
so that no key is made whose token could not be kept. Should it fail all the same, the token is in the output.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import get_args
from uuid import uuid4

from rollout_budget.cli import show
from rollout_budget.cli.connection import ADMIN_KEY, admin
from rollout_budget.cli.files import NewFile, new_file
from rollout_budget.cli.parsing import Commands, Options, Unkept, seconds
from rollout_budget.errors import OutcomeUnknown
from rollout_budget.wire import Key, KeyCreate, KeyRotate, KeysAnswer, KeySecret, Scope
from rollout_budget.wire.access import MAX_PAGE

_CREATE = """\
  rollout-budget admin keys create vision --label trainer --file vision.key
  rollout-budget admin keys create vision --scope read --label dashboard --expires-in 90d
  rollout-budget admin keys create vision --json | jq -r .token"""
_ROTATE = """\
  rollout-budget admin keys rotate 5f0c6f6e5bb0a7c1 --grace 1d --file vision.new.key
  rollout-budget admin keys rotate 5f0c6f6e5bb0a7c1 --grace 0"""


def add(commands: Commands) -> None:
    """Add the commands."""
    keys = commands.group(
        "keys",
        "Create, list, rotate and revoke keys. A key belongs to one team: scope team works with its runs, read only"
        " looks,\nadmin makes teams, limits and keys of all teams.",
        "  rollout-budget admin keys list --team vision\n" + _CREATE,
    )
    create = keys.command("create", "Create a key. Its token is shown this once.", _CREATE, _create, key=ADMIN_KEY)
    create.add_argument("team", help="whose key")
    create.add_argument("--scope", choices=get_args(Scope), default="team", help="what it may do (default: team)")
    create.add_argument("--label", help="what it is for, shown in lists")
    create.add_argument(
        "--expires-in", type=seconds, metavar="TIME", help="its life, like 12h or 90d (default: no end)"
    )
    _add_token_options(create)
    listing = keys.command(
        "list",
        "List keys without their tokens. Oldest first.",
        "  rollout-budget admin keys list\n  rollout-budget admin keys list --team vision --json",
        _list,
        key=ADMIN_KEY,
    )
    listing.add_argument("--team", help="of this team alone")
    rotate = keys.command(
        "rotate",
        "Replace a key by a new one of the same team, scope, label and lifetime. The old one works until the grace ends.",
        _ROTATE,
        _rotate,
        key=ADMIN_KEY,
    )
    rotate.add_argument("key_id", help="the key to replace, from `keys list`")
    rotate.add_argument(
        "--grace", type=seconds, metavar="TIME", default=3600.0, help="how long both work (default: 1h)"
    )
    _add_token_options(rotate)
    revoke = keys.command(
        "revoke",
        "End a key at once. Processes that trusted it a moment ago refuse it within 5 s.",
        "  rollout-budget admin keys revoke 5f0c6f6e5bb0a7c1",
        _revoke,
        key=ADMIN_KEY,
    )
    revoke.add_argument("key_id", help="the key to end, from `keys list`")


def _add_token_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", metavar="FILE", help="also write the token to this new file, mode 0600")
    parser.add_argument("--idempotency-key", metavar="ID", help="repeat a command whose answer was lost: the same key")


def _create(options: Options) -> None:
    request = KeyCreate(team=options.team, scope=options.scope, label=options.label, expires_in_s=options.expires_in)
    with admin(options) as client:
        _print_new(options, lambda once: client.create_key(request, idempotency_key=once))


def _rotate(options: Options) -> None:
    request = KeyRotate(grace_s=options.grace)
    with admin(options) as client:
        _print_new(options, lambda once: client.rotate_key(options.key_id, request, idempotency_key=once))


def _revoke(options: Options) -> None:
    with admin(options) as client:
        key = client.revoke_key(options.key_id)
    show.one(options, key)


def _list(options: Options) -> None:
    found: list[Key] = []
    with admin(options) as client:
        page = client.list_keys(team=options.team, limit=MAX_PAGE)
        found += page.keys
        while page.next is not None:
            page = client.list_keys(team=options.team, after=page.next, limit=MAX_PAGE)
            found += page.keys
    rows = [
        (
            key.key_id,
            key.team,
            key.scope,
            key.status,
            key.created_at,
            key.expires_at,
            key.label or "",
            key.replaces or "",
        )
        for key in found
    ]
    header = ("KEY", "TEAM", "SCOPE", "STATUS", "CREATED", "EXPIRES", "LABEL", "REPLACES")
    show.answer(options, KeysAnswer(keys=found), rows, header)


def _print_new(options: Options, make: Callable[[str], KeySecret]) -> None:
    once = options.idempotency_key or str(uuid4())
    again = f"run the same command again with --idempotency-key {once}"
    with new_file(options.file) as file:
        try:
            secret = make(once)
        except OutcomeUnknown:
            raise OutcomeUnknown(f"no answer came, so the key may have been made: {again}") from None
        unkept = _kept(secret, file)
    try:
        show.one(options, secret)
        sys.stdout.flush()
    except OSError as error:
        if file is not None and not unkept:
            raise
        raise Unkept(f"key {secret.key_id} was made, but its token could not be shown: {again}") from error
    if unkept:
        raise Unkept(f"key {secret.key_id} was made, but {unkept}: keep the token from the output above")


def _kept(secret: KeySecret, file: NewFile | None) -> str:
    """Write the token into its file; return why that did not go, empty if it did."""
    if file is not None:
        try:
            file.keep(secret.token + "\n")
        except OSError as error:
            return f"--file {file.name} could not be written ({error.strerror}) and is not there"
    return ""
