"""Loading a model for a probe, and unloading it afterwards where no other client can be seen using it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from exporter.errors import ProbeError, SkipReason
from exporter.logs import get_logger
from exporter.ollama import entries
from exporter.ollama.client import OllamaClient
from exporter.plan import ModelKey, ModelPlan
from exporter.probing.contention import QUEUE_SECONDS
from exporter.reading import Answer, Figures, LoadedModel

JOINED_LOAD_SECONDS = 0.05
"""A faster load joined one that another client had begun. Measured on Ollama 0.33: joining took 7 ms."""
TIMER_TOLERANCE = timedelta(milliseconds=50)
"""Measured on Ollama 0.33: 2 ms without another client, 733 ms with one waiting."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load that the probe requested."""

    seconds: float
    created_at: datetime | None
    """When the server answered, by its own clock."""


def reason_to_skip(plan: ModelPlan, others: tuple[LoadedModel, ...]) -> SkipReason | None:
    """Return why a model that is not loaded must not be loaded, None if it may. `others` are the loaded models."""
    if plan.when_unloaded == "skip":
        return SkipReason.UNLOADED
    if plan.when_unloaded == "borrow" and others:
        return SkipReason.OCCUPIED
    return None


async def load_model(client: OllamaClient, plan: ModelPlan) -> Load:
    """Load a model and return how long that took. Raises `ProbeError`."""
    started_at = time.perf_counter()
    created_at = await client.load(plan.model, plan.keep_alive, plan.load_timeout_seconds)
    return Load(seconds=time.perf_counter() - started_at, created_at=created_at)


def is_unused(
    load: Load, answer: Answer, figures: Figures, before: LoadedModel | None, after: LoadedModel | None
) -> bool:
    """Return whether no other client was seen using a model that the probe loaded, so that it can be unloaded.

    `before` and `after` are its entries of `/api/ps` around the measured request. A request that waits or has run since
    then moves `expires_at`, so that it is no longer one keep-alive after the final chunk. A request that ran before
    shows as queue time. What cannot be known counts as used.
    """
    final_at = entries.time(answer.final.get("created_at")) if answer.final else None
    if load.seconds <= JOINED_LOAD_SECONDS or load.created_at is None or final_at is None or figures.stages is None:
        return False
    if before is None or before.expires_at is None or after is None or after.expires_at is None:
        return False
    keep_alive = before.expires_at - load.created_at
    moved = after.expires_at - final_at - keep_alive
    return abs(moved) <= TIMER_TOLERANCE and figures.stages.queue_seconds < QUEUE_SECONDS


async def give_back(client: OllamaClient, plan: ModelPlan, key: ModelKey) -> None:
    """Unload a borrowed model. A failure is only logged, because Ollama unloads the model when its keep-alive ends."""
    try:
        await client.unload(plan.model)
    except ProbeError as error:
        log.warning("failed to unload the borrowed model", **key._asdict(), reason=error.reason, detail=error.detail)
