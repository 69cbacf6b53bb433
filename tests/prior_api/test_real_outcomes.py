"""The benchmark's own measurement on real outcomes, over HTTP, in small and without a model."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np

from benchmarks.prior.measure import measure, register
from benchmarks.prior.protocols import REFERRED
from benchmarks.prior.server import MAX_ROWS
from rollout_budget.client import PriorClient
from services.prior_api.app import create_app
from services.prior_api.evaluate.data import load
from services.prior_api.evaluate.splits import Split, split
from services.prior_api.heads.base import Float32Array
from services.prior_api.settings import Settings
from tests.paths import outcomes_folder
from tests.prior_api.conftest import SERVICE
from tests.prior_api.fakes import FakeEncoder


class Unalike(FakeEncoder):
    """Gives every text a direction of its own, so that evidence is shared between equal prompts and no others."""

    name = "unalike/1"
    width = 384

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Return unit vectors that are all but orthogonal."""
        draws = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=self.width) for text in texts]
        return np.stack([draw / np.linalg.norm(draw) for draw in draws]).astype(np.float32)


async def test_values_beat_the_constant_on_held_back_rows(tmp_path: Path) -> None:
    """From recurring prompts alone the process beats constant and own history, and knows its errors."""
    outcomes = load(outcomes_folder())
    half = split(outcomes, seed=0, size=256)
    two = Split(half.evidence, dict([*half.targets.items()][::3]))  # one version of each policy
    recurring = next(protocol for protocol in REFERRED if protocol.name == "recurring")
    settings = Settings(data=tmp_path, service_keys=[SERVICE], encode_wait_s=10, max_rows=MAX_ROWS)
    app = create_app(settings, encoder=Unalike())
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        PriorClient("http://prior", SERVICE, team="texts", transport=transport) as client,
    ):
        await register(client, outcomes, lambda _line: None)
        result = await measure(client, outcomes, two, recurring)
    gp, history, constant = (result.scores[name] for name in ("gp", "history", "constant"))
    assert gp.squared_error < history.squared_error < constant.squared_error
    assert gp.explained_variance > 0.11
    assert gp.auc > 0.63
    assert 0.85 < gp.z_deviation < 1.15
    assert gp.normal_95 > 0.9
