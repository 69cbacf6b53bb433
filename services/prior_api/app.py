"""Puts the prior service together; the one place where its parts learn of each other."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import threadpoolctl  # type: ignore[import-untyped]  # it ships no types
from fastapi import FastAPI

from rollout_budget.errors import Unavailable
from rollout_budget.wire import ModelView, PriorModel
from services.kit import bodies, database, edge, http, problems, segments
from services.kit.app import Application
from services.prior_api import encoders, endpoints, examples, licences
from services.prior_api.auth import Door, Entrance
from services.prior_api.batching import Batcher
from services.prior_api.encoders import Encoder
from services.prior_api.features import FeatureCache, SqlFeatureCache
from services.prior_api.fits import Fits
from services.prior_api.heads import catalogue as heads
from services.prior_api.heads.catalogue import HeadName
from services.prior_api.metrics import Metrics
from services.prior_api.repository import Repository
from services.prior_api.service import PriorService
from services.prior_api.settings import Settings

DESCRIPTION = "Evidence in, predicted success rates with standard errors out. Unit scale throughout."

CPU_BATCH, GPU_BATCH = 256, 1024
"""Texts handed to the encoder at once: it splits them by tokens itself, so more at once are padded less."""


def create_app(settings: Settings, *, encoder: Encoder | None = None) -> FastAPI:
    """Return the application; `encoder` replaces the one that the settings name.

    Raises:
        ValueError: the device is not there, or weights are not for commercial use and nobody has accepted that.
        Unloadable: an encoder or weights are named that are not there.
    """
    encoder, choice, running, model = _models(settings, encoder)
    metrics = Metrics()
    repository = Repository(database.connect(settings.database))
    batcher = _batcher(settings, encoder, choice.device, metrics)
    features = SqlFeatureCache(repository, encoder, batcher, metrics)
    fits = _fits(settings, running, repository, features, metrics)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with threadpoolctl.threadpool_limits(settings.threads):
            licences.announce([model.encoder, *model.heads])
            heads.remark(choice)
            await repository.create_tables()
            batcher.start()
            gc.freeze()  # what was loaded stays; looking through it for garbage would hold up requests
            yield
            await features.stop()
            await batcher.stop()
            for one in fits.values():
                await one.stop()
            await repository.dispose()

    async def ready() -> str | None:
        if batcher.state != "ready":
            return f"encoder: {batcher.state}"
        try:
            async with repository.begin() as transaction:
                await transaction.evidence_version("")
        except Unavailable as error:
            return str(error)
        return None

    app = Application(
        title="rollout-budget prior service",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        examples=examples.schemas(),
    )
    app.state.door = Door(settings)
    app.state.service = PriorService(
        repository,
        features,
        fits,
        metrics,
        model=model,
        encoder=lambda: batcher.state,
        encode_wait_s=settings.encode_wait_s,
        epsilon=settings.shared_epsilon,
    )
    problems.install(app)
    edge.install(app, limits=settings.admission, visitors=Entrance(), registry=metrics.registry)
    bodies.install(app, max_body_bytes=settings.max_body_bytes)
    http.install(app, registry=metrics.registry, ready=ready, lines=settings.logs_requests)
    segments.install(app)
    app.include_router(endpoints.router)
    return app


def _batcher(settings: Settings, encoder: Encoder, device: str, metrics: Metrics) -> Batcher:
    return Batcher(
        encoder,
        metrics,
        max_batch=settings.encoder_max_batch or (GPU_BATCH if device == "cuda" else CPU_BATCH),
        max_wait_s=settings.encoder_max_wait_s,
        max_queue=settings.encoder_max_queue,
    )


def _models(
    settings: Settings, encoder: Encoder | None
) -> tuple[Encoder, heads.HeadChoice, Mapping[HeadName, heads.Running], ModelView]:
    """Return encoder, choice of heads, heads and their terms, once those were found to be accepted."""
    placement = settings.placement()
    encoder = encoder or encoders.create(settings.encoder_choice, placement)
    features = heads.Features(encoder.width, encoder.surface, encoder.unit)
    choice = settings.head_choice(placement.device)
    running = heads.create(choice, features)
    model = ModelView(encoder=encoder.part, heads=[one.part for one in running.values()])
    licences.require([model.encoder, *model.heads], settings.accept_licences)
    return encoder, choice, running, model


def _fits(
    settings: Settings,
    running: Mapping[HeadName, heads.Running],
    repository: Repository,
    features: FeatureCache,
    metrics: Metrics,
) -> dict[PriorModel, Fits]:
    return {
        name: Fits(
            repository,
            features,
            one.head,
            metrics,
            max_rows=settings.max_rows,
            refit_interval_s=settings.refit_interval_s,
            refit_wait_s=settings.refit_wait_s,
            encode_wait_s=settings.encode_wait_s,
        )
        for name, one in running.items()
    }
