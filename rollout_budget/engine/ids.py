"""Identifiers that the engine derives: reservations, evidence rows, fingerprints. All are lossless or hashes."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from urllib.parse import quote

from pydantic import BaseModel

from rollout_budget.engine.records import GroupKey

REMEMBERED_PARTS = 2**16
"""Encoded parts kept at hand: the groups of some steps, each of which is named in several calls."""


def reservation_id(run_id: str, key: GroupKey, wave: int) -> str:
    """Return `run/group/attempt/wave` with each part percent-encoded, so that no two groups share an id."""
    return f"{group_path(run_id, key)}/{wave}"


def reservation_ids(run_id: str, key: GroupKey, waves: int) -> tuple[str, ...]:
    """Return the ids of waves 0 to `waves - 1`."""
    path = group_path(run_id, key)
    return tuple(f"{path}/{wave}" for wave in range(waves))


def group_path(run_id: str, key: GroupKey) -> str:
    """Return `run/group/attempt`, percent-encoded."""
    return f"{_encoded(run_id)}/{_encoded(key.group_id)}/{key.attempt}"


def evidence_id(team: str, run_id: str, key: GroupKey) -> str:
    """Return the id under which a group's outcomes count once as evidence: a hash, as ids are bounded in length."""
    return hashlib.sha256(f"{_encoded(team)}/{group_path(run_id, key)}".encode()).hexdigest()


def plan_seed(run_id: str, plan_id: str) -> int:
    """Return the seed of a plan: whoever asks again, here or there, draws the same numbers."""
    return int.from_bytes(hashlib.sha256(f"{_encoded(run_id)}/{_encoded(plan_id)}".encode()).digest())


def fingerprint(body: BaseModel) -> str:
    """Return a hash of a request's meaning: equal for bodies that parse to the same values (G4).

    What a body leaves at its default is left out, so that a field that a later release adds changes no hash.
    """
    return hashlib.sha256(body.model_dump_json(exclude_defaults=True).encode()).hexdigest()


@lru_cache(maxsize=REMEMBERED_PARTS)
def _encoded(part: str) -> str:
    return quote(part, safe="")
