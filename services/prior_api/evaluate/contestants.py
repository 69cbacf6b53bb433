"""The heads that are compared, by their names in the service's catalogue; what cannot be loaded is said and left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.prior_api import licences
from services.prior_api.encoders import Encoder
from services.prior_api.heads import CONTROLS, Context, Predictor
from services.prior_api.heads.catalogue import HEADS, Features
from services.prior_api.settings import Settings

DEFAULT = ("gp", *reversed(CONTROLS))


@dataclass(frozen=True, slots=True)
class Contestant:
    """A head by name.

    Attributes:
        fit: turns evidence into what answers questions.
        learns: whether it is fitted at all; a control is not, and needs no features.
    """

    name: str
    fit: Callable[[Context], Predictor]
    learns: bool


def known() -> list[str]:
    """Return every name that can be asked for."""
    return [*HEADS, *CONTROLS]


def controls(names: Sequence[str]) -> list[Contestant]:
    """Return the controls among `names`."""
    return [Contestant(name, _always(CONTROLS[name]), learns=False) for name in names if name in CONTROLS]


def learners(names: Sequence[str], settings: Settings, encoder: Encoder) -> tuple[list[Contestant], list[str]]:
    """Make the heads among `names` for an encoder's features; return them, and a sentence on each that cannot be made.

    Each is fitted to nothing once: weights are loaded by the first fit, and what they lack is best known beforehand.
    """
    made, failures = [], []
    choice = settings.head_choice(settings.placement().device)
    for name, build in HEADS.items():
        if name not in names:
            continue
        try:
            running = build(choice, Features(encoder.width, encoder.surface, encoder.unit))
            licences.require([running.part], settings.accept_licences)
            running.head.fit(Context([], {}))
        except (ArithmeticError, ImportError, OSError, ValueError, RuntimeError) as error:
            failures.append(f"{name} cannot be loaded: {error}")
        else:
            made.append(Contestant(name, running.head.fit, learns=True))
    return made, failures


def _always(control: Predictor) -> Callable[[Context], Predictor]:
    return lambda _context: control
