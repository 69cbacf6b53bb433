"""The reward function of the drill, as verl loads it from a file: shaped reward and verifiable part."""

from __future__ import annotations

from typing import Any

FIRST, CHARACTERS = 32, 95
"""Codes of the test tokenizer's characters."""
PER_CHARACTER = 0.01


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> dict[str, Any]:
    """Right if the first character is among the first `ground_truth` of all; longer is worse."""
    right = bool(solution_str) and (ord(solution_str[0]) - FIRST) / CHARACTERS < float(ground_truth)
    return {"score": float(right) - PER_CHARACTER * len(solution_str), "acc": right}
