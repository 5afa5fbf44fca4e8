"""One configured target at work: is it up, which of its models are probed, and the probing of each."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import monotonic
from typing import Protocol

from exporter.errors import Failure, ProbeError, Reason, SkipReason
from exporter.gpu.base import GpuMonitor
from exporter.ollama.chain import ReferenceChain
from exporter.ollama.client import OllamaClient
from exporter.plan import ModelKey, ModelPlan, TargetPlan, canonical_model_name, model_label
from exporter.probing.prober import Prober
from exporter.reading import InstalledModel, Reading

CHECK_SECONDS = 30.0
"""How often a server is asked whether it is up, and what it has: at least once a minute, an answer's 5 s included."""

log = logging.getLogger(__name__)


class ProbeObserver(Protocol):
    """Receives the results of probes and checks; `StateStore` is one."""

    def probe_succeeded(self, key: ModelKey, reading: Reading, run_seconds: float) -> None:
        """Record a successful probe."""

    def probe_failed(self, key: ModelKey, failure: Failure, run_seconds: float) -> None:
        """Record a failed probe."""

    def probe_cancelled(self, key: ModelKey) -> None:
        """Record a probe that a shutdown or a reload cancelled."""

    def probe_skipped(self, key: ModelKey, reason: SkipReason, count: int = 1) -> None:
        """Record due probes that were not run."""

    def server_checked(self, target: str, version: str | None) -> None:
        """Record a server's version, or None if it did not answer."""


class Target:
    """A target's server, chain and models. `on_models` is told which are to be probed, each time that changes."""

    def __init__(
        self,
        plan: TargetPlan,
        gpus: GpuMonitor,
        observer: ProbeObserver,
        on_models: Callable[[Target, dict[ModelKey, ModelPlan]], Awaitable[None]],
    ) -> None:
        self.plan = plan
        self.models: dict[ModelKey, ModelPlan] = {}
        self._observer = observer
        self._on_models = on_models
        self._server = OllamaClient(plan, lambda version: observer.server_checked(plan.name, version))
        self._chain = ReferenceChain(plan, self._server.auth)
        self._prober = Prober(plan, self._server, self._chain, gpus)
        self._check: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up the configured models, and begin to ask the server how it is."""
        if not isinstance(self.plan.models, str):
            await self._follow(self.plan.listed_models())
        self._check = asyncio.create_task(self._keep_checking(), name=f"check {self.plan.name}")

    async def stop_checking(self) -> None:
        """Ask the server no more."""
        if self._check is not None:
            self._check.cancel()
            await asyncio.gather(self._check, return_exceptions=True)

    async def close(self) -> None:
        """Close the connections. Its probes must have ended."""
        await self._chain.close()
        await self._server.close()

    async def probe(self, pair: ModelKey) -> None:
        """Probe one model and tell what came of it."""
        plan = self.models[pair]
        fields: dict[str, object] = {"target": pair.target, "model": pair.model}
        began = monotonic()
        try:
            outcome = await self._prober.probe(plan)
        except asyncio.CancelledError:
            self._observer.probe_cancelled(pair)
            raise
        except ProbeError as error:
            self._record_failure(pair, error, monotonic() - began)
            return
        if isinstance(outcome, Reading):
            self._observer.probe_succeeded(pair, outcome, monotonic() - began)
            fields |= {
                "gpu": outcome.gpu.label,
                "decode_tokens_per_second": round(outcome.figures.decode_tokens_per_second, 2),
            }
            log.info("probe succeeded", extra={"fields": fields})
        else:
            self._observer.probe_skipped(pair, outcome)
            log.info("probe skipped", extra={"fields": fields | {"reason": outcome}})

    def _record_failure(self, pair: ModelKey, error: ProbeError, run_seconds: float) -> None:
        self._observer.probe_failed(pair, error.failure, run_seconds)
        told = {"reason": error.reason, "detail": error.detail, "remedy": error.remedy}
        fields = pair._asdict() | told
        if error.reason is Reason.INTERNAL:
            log.error("probe failed", extra={"fields": fields | self._traceback(error)})
        else:
            log.warning("probe failed", extra={"fields": fields})

    async def _keep_checking(self) -> None:
        while True:
            try:
                await self.check()
            except Exception as error:  # noqa: BLE001 - told, with its traceback
                fields = {"target": self.plan.name, **self._traceback(error)}
                log.error("a check failed in a way that nobody expected", extra={"fields": fields})  # noqa: TRY400
            await asyncio.sleep(CHECK_SECONDS)

    def _traceback(self, error: Exception) -> dict[str, str]:
        """Return the field that logs an error's traceback: its causes may quote what was sent."""
        return {"traceback": self._server.auth.redact("".join(traceback.format_exception(error)))}

    async def check(self) -> None:
        """Ask the server whether it is up, and follow the models that it has."""
        try:
            await self._server.version()
            if isinstance(self.plan.models, str):
                await self._follow(await discover(self.plan, self._server))
        except ProbeError as error:
            log.debug("check failed", extra={"fields": {"target": self.plan.name, "reason": error.reason}})

    async def _follow(self, models: dict[ModelKey, ModelPlan]) -> None:
        if models != self.models:
            await self._on_models(self, models)


async def discover(target: TargetPlan, server: OllamaClient) -> dict[ModelKey, ModelPlan]:
    """Return the models that can generate, never cloud ones, of those installed or loaded on a server."""
    wanted = [model for model in await server.installed() if model.name]
    plan = target.defaults
    if target.models == "loaded":
        loaded = {canonical_model_name(entry.name) for entry in await server.loaded()}
        wanted = [model for model in wanted if canonical_model_name(model.name) in loaded]
        plan = replace(plan, when_unloaded="skip")  # following what users load never loads anything itself
    names = sorted({model_label(model.name) for model in wanted if await _can_be_probed(model, server)})
    return {ModelKey(target.name, name): plan.of(name) for name in names}


async def _can_be_probed(model: InstalledModel, server: OllamaClient) -> bool:
    """Return whether a model generates on this server. Older servers say so in `/api/show` only."""
    if model.cloud:
        return False
    if model.can_generate is not None:
        return model.can_generate
    file = await server.file(model.name, model.digest)
    return not file.cloud and file.can_generate is not False
