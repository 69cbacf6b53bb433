"""Verifiers by name: completions in, outcomes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from trainer.errors import ConfigError
from trainer.rewards.countdown import CountdownVerifier
from trainer.rewards.exact import ExactVerifier
from trainer.rewards.math_verify import MathVerifier
from trainer.rewards.user import UserReward
from trainer.rewards.workers import Limits
from trainer.types import Verifier

VERIFIERS: Mapping[str, Callable[[], Verifier]] = MappingProxyType(
    {"exact": ExactVerifier, "math": MathVerifier, "countdown": CountdownVerifier}
)

__all__ = ["VERIFIERS", "CountdownVerifier", "ExactVerifier", "Limits", "MathVerifier", "UserReward", "get"]


def get(name: str, limits: Limits | None = None) -> Verifier:
    """Return the verifier of this name, or the user's reward function of this import path (it holds a colon).

    Args:
        name: of a verifier, or `module:function`, or `file.py:function`.
        limits: of the processes that run the user's function.

    Raises:
        ConfigError: there is none.
    """
    if ":" in name:
        return UserReward(name, limits)
    if name not in VERIFIERS:
        raise ConfigError(f"verifier: {name!r} is none of {', '.join(VERIFIERS)}")
    return VERIFIERS[name]()
