"""Which packages the services need that are not installed here, by what this package says of its extras."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec

DISTRIBUTION = "rollout-budget"
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*([^;]*);.*extra == ['\"]([^'\"]+)['\"]")


def required(extra: str) -> Iterator[tuple[str, str]]:
    """Yield distribution and bounds (`>=2,<3`, or empty) of each requirement of an extra; none if nothing is known."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match and match[3] == extra and match[1] != DISTRIBUTION:
            yield match[1], match[2].strip(" ()")


def installed(distribution: str) -> str | None:
    """Return the version of a distribution, None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def missing(extras: Sequence[str]) -> list[str]:
    """Return what these extras need and is not here, `services` itself included."""
    names = [] if find_spec("services") else ["services"]
    names += [name for extra in extras for name, _ in required(extra) if installed(name) is None]
    return list(dict.fromkeys(names))
