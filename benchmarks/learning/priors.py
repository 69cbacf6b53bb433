"""The prior service's Gaussian process in the process of a run: its encoder, its heads, its way to refit and to append.

Owns what the service does around a head (whose evidence, which rows, when to fit afresh), for one policy that shares with
nobody. A service would encode every prompt again for every run, since teams do not share features; here a pool is encoded
once and kept in a file. Controls and each prompt's own history are those of the engine (`HistoryPrior`).
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from rollout_budget.engine import HistoryPrior
from rollout_budget.wire import EvidenceRow, PriorModel, Prompt, Value, ValuesAnswer
from services.prior_api.encoders import Choice, Placement, create
from services.prior_api.heads import Context, GaussianProcess, Question
from services.prior_api.heads.base import Float32Array
from services.prior_api.heads.gp import GaussianProcessFit
from services.prior_api.quality import levels_of
from services.prior_api.records import Cell, Level

TEXTS_PER_CALL = 512
"""Texts given to the encoder at once."""
MAX_ROWS = 1024
"""Rows in a fit: half of the service's default, since a step here takes a tenth of a second and not half a minute."""
MAX_APPENDED = 512
"""Rows appended to one fit, as in the service."""
REFIT_STEPS = 8
"""Policy versions after which a fit is made afresh, however few rows came: a run has about ten fits, the service has one a
second."""
NEAR_LEVELS = 64
"""Versions that the level is taken from, as in the service."""
NOBODY = "study"
"""Team of all cells: a run learns from itself alone."""


class Features:
    """Vectors of texts, from a file where they were computed before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._encoder = create(Choice(), Placement())
        self._vectors: dict[str, Float32Array] = {}
        self.width = self._encoder.width - self._encoder.surface
        self.surface = self._encoder.surface

    def prepare(self, texts: Sequence[str]) -> None:
        """Have the vectors of these texts in memory, computed now if no file holds them; some 200 texts a second."""
        digest = hashlib.sha256("\n".join([self._encoder.name, *texts]).encode()).hexdigest()[:16]
        path = self._folder / f"features-{digest}.npy"
        if not path.is_file():
            self._encoder.load()
            calls = range(0, len(texts), TEXTS_PER_CALL)
            vectors = np.concatenate([self._encoder.encode(texts[at : at + TEXTS_PER_CALL]) for at in calls])
            draft = path.with_suffix(f".{os.getpid()}.npy")
            draft.parent.mkdir(parents=True, exist_ok=True)
            np.save(draft, vectors)
            draft.replace(path)
        self._vectors |= zip(texts, np.load(path), strict=True)

    def of(self, texts: Iterable[str]) -> dict[str, Float32Array]:
        """Return the vectors of texts that were prepared."""
        return {text: self._vectors[text] for text in texts}


class Evidence:
    """The outcomes of one policy, in the forms that heads ask for them."""

    def __init__(self) -> None:
        self.rows = 0
        self._texts: dict[str, str] = {}
        self._cells: dict[tuple[int, str], Cell] = {}
        self._keys: defaultdict[str, list[int]] = defaultdict(list)
        self._versions: defaultdict[int, list[EvidenceRow]] = defaultdict(list)
        self._levels: dict[int, Level] = {}

    def learn_texts(self, prompts: Iterable[Prompt]) -> None:
        """Remember the texts of keys."""
        self._texts |= {prompt.key: prompt.text for prompt in prompts if prompt.text is not None}

    def add(self, policy: str, rows: Sequence[EvidenceRow]) -> list[Cell]:
        """Add rows up by prompt and version; return the cells of these rows alone."""
        new = [self._cell(policy, row) for row in rows]
        for row, cell in zip(rows, new, strict=True):
            place = (row.version, row.key)
            known = self._cells.get(place)
            if known is None:
                self._keys[row.key].append(row.version)
            self._cells[place] = cell if known is None else _sum(known, cell)
            self._versions[row.version].append(row)
        for version in {row.version for row in rows}:
            (self._levels[version],) = levels_of(self._versions[version])
        self.rows += len(rows)
        return new

    def newest(self, most: int) -> list[Cell]:
        """Return the cells of the newest versions; of the last that fits, those of the prompts that a hash draws."""
        order = sorted(self._cells, key=lambda place: (-place[0], hashlib.sha256(place[1].encode()).digest()))
        return [self._cells[place] for place in order[:most]]

    def history(self, key: str) -> list[Cell]:
        """Return a prompt's cells, newest version first."""
        return [self._cells[version, key] for version in sorted(self._keys.get(key, ()), reverse=True)]

    def levels(self, version: int) -> list[Level]:
        """Return the sums of the versions nearest to one."""
        nearest = sorted(self._levels, key=lambda other: abs(other - version))[:NEAR_LEVELS]
        return [self._levels[other] for other in sorted(nearest)]

    def text(self, key: str) -> str:
        """Return the text of a key."""
        return self._texts[key]

    def _cell(self, policy: str, row: EvidenceRow) -> Cell:
        return Cell(NOBODY, policy, row.key, self._texts[row.key], row.version, row.successes, row.trials, 1)


class GaussianPriors:
    """Obeys `rollout_budget.engine.ports.PriorSource`, for the one policy of a run."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._head = GaussianProcess(features.width, features.surface)
        self._controls = HistoryPrior()
        self._evidence = Evidence()
        self._seen: set[str] = set()
        self._fit: GaussianProcessFit | None = None
        self._fitted = (0, 0)
        self._appended = 0
        self._waiting: list[Cell] = []

    async def values(
        self, team: str, policy: str, version: int, prompts: Sequence[Prompt], model: PriorModel
    ) -> ValuesAnswer:
        """Return one value per prompt: of the process for "gp", else of the control that was asked for."""
        self._evidence.learn_texts(prompts)
        if model != "gp":
            return await self._controls.values(team, policy, version, prompts, model)
        fit = self._current(version)
        texts = [self._evidence.text(prompt.key) for prompt in prompts]
        histories = [self._evidence.history(prompt.key) for prompt in prompts]
        question = Question(
            owner=(NOBODY, policy),
            version=version,
            identities=texts,
            features=self._features.of(texts),
            histories=histories,
            levels=self._evidence.levels(version),
        )
        found = fit.values(question)
        figures = zip(prompts, found.values.tolist(), found.standard_errors.tolist(), histories, strict=True)
        return ValuesAnswer(
            values=[
                Value(key=prompt.key, value=value, standard_error=error, evidence_count=len(cells))
                for prompt, value, error, cells in figures
            ],
            model="gp",
            model_version=fit.version,
            evidence_version=self._evidence.rows,
        )

    async def add_evidence(self, team: str, policy: str, rows: Sequence[EvidenceRow]) -> None:
        """Take evidence; a row that was taken before counts once."""
        new = [row for row in rows if row.id not in self._seen]
        self._seen |= {row.id for row in new}
        await self._controls.add_evidence(team, policy, new)
        self._waiting += self._evidence.add(policy, new)

    def _current(self, version: int) -> GaussianProcessFit:
        """Return a fit that has seen all evidence: the one before with the new rows appended, or a new one."""
        rows, since = self._fitted
        room = min(MAX_APPENDED, rows) - self._appended
        due = self._fit is None or len(self._waiting) > room or version - since >= REFIT_STEPS
        if self._fit is None or (self._waiting and due):
            cells = self._evidence.newest(MAX_ROWS)
            self._fit = self._head.fit(self._context(cells))
            self._fitted, self._appended = (len(cells), version), 0
        elif self._waiting:
            self._fit = self._fit.grown(self._context(self._waiting))
            self._appended += len(self._waiting)
        self._waiting = []
        return self._fit

    def _context(self, cells: Sequence[Cell]) -> Context:
        return Context(cells, self._features.of(cell.identity for cell in cells))


def _sum(one: Cell, other: Cell) -> Cell:
    return Cell(
        one.team,
        one.policy,
        one.key,
        one.text_hash,
        one.version,
        one.successes + other.successes,
        one.trials + other.trials,
        one.rows + other.rows,
    )
