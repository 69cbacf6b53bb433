"""Identifiers that the engine derives: reservations, evidence rows, fingerprints. All are lossless or hashes."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

from pydantic import BaseModel

from rollout_budget.engine.records import GroupKey


def reservation_id(run_id: str, key: GroupKey, wave: int) -> str:
    """Return `run/group/attempt/wave` with each part percent-encoded, so that no two groups share an id."""
    return f"{group_path(run_id, key)}/{wave}"


def reservation_ids(run_id: str, key: GroupKey, waves: int) -> tuple[str, ...]:
    """Return the ids of waves 0 to `waves - 1`."""
    path = group_path(run_id, key)
    return tuple(f"{path}/{wave}" for wave in range(waves))


def group_path(run_id: str, key: GroupKey) -> str:
    """Return `run/group/attempt`, percent-encoded."""
    return f"{quote(run_id, safe='')}/{quote(key.group_id, safe='')}/{key.attempt}"


def evidence_id(team: str, run_id: str, key: GroupKey) -> str:
    """Return the id under which a group's outcomes count once as evidence: a hash, as ids are bounded in length."""
    return hashlib.sha256(f"{quote(team, safe='')}/{group_path(run_id, key)}".encode()).hexdigest()


def fingerprint(body: BaseModel) -> str:
    """Return a hash of a request's meaning: equal for bodies that parse to the same values (G4)."""
    return hashlib.sha256(body.model_dump_json().encode()).hexdigest()
