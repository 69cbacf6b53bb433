"""Heads by the names of the settings. Building one loads no weights; that waits for the first fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import structlog

from rollout_budget.wire import ModelPart
from services.prior_api.heads import tabicl, tabpfn
from services.prior_api.heads.base import Head
from services.prior_api.heads.gp import GaussianProcess
from services.prior_api.heads.tabicl import TabICL
from services.prior_api.heads.tabpfn import TabPFN, locate
from services.prior_api.heads.tabular import CONTEXT_ROWS, InContext
from services.prior_api.heads.unit import OnUnitVectors, WithoutSurface
from services.prior_api.weights import Weights

_log = structlog.get_logger(__name__)

HeadName = Literal["gp", "tabpfn", "tabicl"]

GP_PART = ModelPart(name="gp", licence="apache-2.0", source="fitted to the evidence, no weights", commercial_use=True)


@dataclass(frozen=True, slots=True)
class HeadChoice:
    """What the settings say about heads.

    Attributes:
        names: which to run; the first answers for one that is asked for and not run.
        rows: context of the in-context heads.
        estimators: of the in-context heads.
        tabpfn_weights: see `heads.tabpfn.locate`.
        tabicl_weights: a file, a folder or a hub repository.
        device: `cpu` or `cuda`.
        hub: whether downloads are allowed.
    """

    names: Sequence[HeadName] = ("gp",)
    rows: int = CONTEXT_ROWS
    estimators: int = 4
    tabpfn_weights: str = tabpfn.REPOSITORY
    tabicl_weights: str = tabicl.REPOSITORY
    device: str = "cpu"
    hub: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """A head that the service runs, and its terms."""

    head: Head
    part: ModelPart


@dataclass(frozen=True, slots=True)
class Features:
    """What an encoder gives: `width` numbers, the last `surface` of them on the text's surface; `unit` as in `Encoder`."""

    width: int
    surface: int
    unit: bool


def _gp(_choice: HeadChoice, features: Features) -> Running:
    head = GaussianProcess(features.width - features.surface, features.surface)
    return Running(head if features.unit else OnUnitVectors(head, features.surface), GP_PART)


def _tabpfn(choice: HeadChoice, features: Features) -> Running:
    weights, file = locate(choice.tabpfn_weights, hub=choice.hub)
    head = InContext(
        "tabpfn", TabPFN(weights, file, device=choice.device, estimators=choice.estimators), rows=choice.rows
    )
    return Running(WithoutSurface(head, features.surface) if features.surface else head, head.part)


def _tabicl(choice: HeadChoice, features: Features) -> Running:
    classifier = TabICL(
        Weights(choice.tabicl_weights, hub=choice.hub), device=choice.device, estimators=choice.estimators
    )
    head = InContext("tabicl", classifier, rows=choice.rows)
    return Running(WithoutSurface(head, features.surface) if features.surface else head, head.part)


HEADS: dict[HeadName, Callable[[HeadChoice, Features], Running]] = {"gp": _gp, "tabpfn": _tabpfn, "tabicl": _tabicl}


def create(choice: HeadChoice, features: Features) -> dict[HeadName, Running]:
    """Return the heads to run, in their order.

    Raises:
        Unloadable: weights are named that cannot be what they are named for.
    """
    return {name: HEADS[name](choice, features) for name in choice.names}


def remark(choice: HeadChoice) -> None:
    """Log what an operator should know about the choice."""
    slow = [name for name in choice.names if name != "gp"]
    if slow and choice.device == "cpu":
        _log.warning("on a CPU these heads may take minutes for one request at their own size: use a GPU", heads=slow)
