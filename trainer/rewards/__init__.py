"""Verifiers by name: completions in, outcomes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from trainer.errors import ConfigError
from trainer.rewards.countdown import CountdownVerifier
from trainer.rewards.exact import ExactVerifier
from trainer.rewards.math_verify import MathVerifier
from trainer.types import Verifier

VERIFIERS: Mapping[str, Callable[[], Verifier]] = MappingProxyType(
    {"exact": ExactVerifier, "math": MathVerifier, "countdown": CountdownVerifier}
)

__all__ = ["VERIFIERS", "CountdownVerifier", "ExactVerifier", "MathVerifier", "get"]


def get(name: str) -> Verifier:
    """Return the verifier of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in VERIFIERS:
        raise ConfigError(f"verifier: {name!r} is none of {', '.join(VERIFIERS)}")
    return VERIFIERS[name]()
