"""Discovery: which of a server's models are probed where the configuration does not list them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from exporter.errors import ProbeError
from exporter.logs import get_logger
from exporter.ollama.client import OllamaClient
from exporter.plan import ModelKey, ModelPlan, TargetPlan, canonical_model_name, model_label
from exporter.reading import InstalledModel

SHOW_REQUESTS_MAX = 4
"""Maximum number of simultaneous `/api/show` requests to a server."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """What was found on a server."""

    models: Mapping[ModelKey, ModelPlan]
    """By name, cloud models and models that cannot generate excluded."""
    failed: Mapping[ModelKey, ProbeError]
    """Models that are left out because the server does not describe them."""
    ignored: int
    """How many more models there are than `max_models`. Whether these can generate is not checked."""


def discovered_plan(target: TargetPlan, name: str) -> ModelPlan:
    """Return how a discovered model is probed. A model found because it was loaded is not loaded again."""
    plan = replace(target.defaults, when_unloaded="skip") if target.models == "loaded" else target.defaults
    return plan.of(model_label(name))


async def discover(target: TargetPlan, client: OllamaClient) -> Discovered:
    """Return the installed or loaded models of a server that can generate, at most `max_models` in order of their name.

    Raises `ProbeError` if a list of models cannot be read.
    """
    listed = {model_label(model.name): model for model in await client.installed() if model.name}
    if target.models == "loaded":
        loaded = {canonical_model_name(model.name) for model in await client.loaded()}
        listed = {name: model for name, model in listed.items() if canonical_model_name(name) in loaded}
    possible = sorted(name for name, model in listed.items() if not model.cloud and model.can_generate is not False)
    requests = asyncio.Semaphore(SHOW_REQUESTS_MAX)

    async def check(name: str) -> bool | ProbeError:
        async with requests:
            try:
                return await _can_be_probed(listed[name], client)
            except ProbeError as error:
                return error

    names = possible[: target.max_models]
    results = dict(zip(names, await asyncio.gather(*map(check, names)), strict=True))
    plans = [discovered_plan(target, name) for name, result in results.items() if result is True]
    failed = {name: result for name, result in results.items() if isinstance(result, ProbeError)}
    return Discovered(
        models={target.key(plan): plan for plan in plans},
        failed={ModelKey(target.name, name): error for name, error in failed.items()},
        ignored=len(possible) - len(names),
    )


async def _can_be_probed(model: InstalledModel, client: OllamaClient) -> bool:
    """Return whether a model generates on this server. Ollama 0.24 reports that in `/api/show` only."""
    if model.can_generate is not None:
        return model.can_generate
    file = await client.model_file(model.name, model.digest)
    return not file.cloud and file.can_generate is not False


class DiscoveryLog:
    """Logs what discovery cannot read and what it leaves out: once when that begins, and once when it ends."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._failing = False
        self._left_out: set[ModelKey] = set()
        self._limited = False

    def failed(self, error: ProbeError) -> None:
        """Note that a list of models could not be read."""
        if not self._failing:
            log.warning("discovery failed, keeping the models known before", target=self._target, **_reason(error))
        self._failing = True

    def succeeded(self, found: Discovered) -> None:
        """Note what was found."""
        if self._failing:
            log.info("discovery succeeds again", target=self._target, models=len(found.models))
        for key, error in found.failed.items():
            if key not in self._left_out:
                log.warning("model not discovered", **key._asdict(), **_reason(error))
        for key in self._left_out & found.models.keys():
            log.info("model discovered after failures", **key._asdict())
        if found.ignored and not self._limited:
            numbers: dict[str, Any] = {"models": len(found.models), "ignored": found.ignored}
            log.warning("more models than max_models, the others are ignored", target=self._target, **numbers)
        self._failing, self._left_out, self._limited = False, set(found.failed), bool(found.ignored)


def _reason(error: ProbeError) -> dict[str, Any]:
    return {"reason": error.reason, "detail": error.detail, "remedy": error.remedy}
