"""The heads that are compared, by their names in the service's registry; what cannot be loaded is said and left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.prior_api.heads import CONTROLS, Context, GaussianProcess, Head, Predictor

HEADS: Mapping[str, Callable[[int], Head]] = {"gp": GaussianProcess}
DEFAULT = ("gp", *reversed(CONTROLS))


@dataclass(frozen=True, slots=True)
class Contestant:
    """A head by name; `fit` turns evidence into what answers questions."""

    name: str
    fit: Callable[[Context], Predictor]
    learns: bool
    """Whether it is fitted at all; a control is not, and needs no features."""


def known() -> list[str]:
    """Return every name that can be asked for."""
    return [*HEADS, *CONTROLS]


def load(names: Sequence[str], width: int | None, why: str) -> tuple[list[Contestant], list[str]]:
    """Make the heads named, for features of `width` numbers; return them, and a sentence on each that cannot be made.

    Args:
        names: of `known()`.
        width: None if there are no features, because of `why`.
        why: what kept the encoder from giving features; empty otherwise.
    """
    contestants, failures = [], []
    for name in names:
        if name in CONTROLS:
            contestants.append(Contestant(name, _always(CONTROLS[name]), learns=False))
        elif width is None:
            failures.append(f"{name} cannot be loaded: {why}")
        else:
            try:
                contestants.append(Contestant(name, HEADS[name](width).fit, learns=True))
            except (ImportError, OSError, ValueError, RuntimeError) as error:
                failures.append(f"{name} cannot be loaded: {error}")
    return contestants, failures


def _always(control: Predictor) -> Callable[[Context], Predictor]:
    return lambda _context: control
