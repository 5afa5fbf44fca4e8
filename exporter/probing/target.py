"""One configured target at work: is it up, which of its models are probed, and the probing of each."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import monotonic
from typing import Protocol

from exporter.errors import ProbeError, Reason
from exporter.gpu.base import GpuMonitor
from exporter.ollama.chain import ReferenceChain
from exporter.ollama.client import InstalledModel, OllamaClient, full_name
from exporter.ollama.error_mapping import probe_error
from exporter.plan import ModelKey, ModelPlan, TargetPlan, short_name
from exporter.probing.prober import Prober
from exporter.reading import Reading, SkipReason

CHECK_SECONDS = 30.0
"""How often a server is asked whether it is up, and what it has: at least once a minute, an answer's 5 s included."""

log = logging.getLogger(__name__)


class ProbeObserver(Protocol):
    """Who is told of what happens; `ProbeMetrics` is."""

    def succeeded(self, pair: ModelKey, reading: Reading, run_seconds: float) -> None:
        """Hear of a good probe."""

    def failed(self, pair: ModelKey, reason: Reason, run_seconds: float) -> None:
        """Hear of a failed probe."""

    def cancelled(self, pair: ModelKey) -> None:
        """Hear of a probe that was ended by a shutdown or a reload."""

    def skipped(self, pair: ModelKey, reason: SkipReason, count: int = 1) -> None:
        """Hear of runs that measured nothing."""

    def server_answered(self, target: str, version: str | None) -> None:
        """Hear of a server's sign of life, or of its lack."""


class Target:
    """A target's server, chain and models. `on_models` is told which are to be probed, each time that changes."""

    def __init__(
        self,
        plan: TargetPlan,
        gpus: GpuMonitor,
        told: ProbeObserver,
        on_models: Callable[[Target, dict[ModelKey, ModelPlan]], Awaitable[None]],
    ) -> None:
        self.plan = plan
        self.models: dict[ModelKey, ModelPlan] = {}
        self._told = told
        self._on_models = on_models
        self._server = OllamaClient(plan, lambda version: told.server_answered(plan.name, version))
        self._chain = ReferenceChain(plan, self._server.auth)
        self._prober = Prober(plan, self._server, self._chain, gpus)
        self._check: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up the configured models, and begin to ask the server how it is."""
        if not isinstance(self.plan.models, str):
            await self._follow({self.plan.pair(model): model for model in self.plan.models})
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
            self._told.cancelled(pair)
            raise
        except ProbeError as error:
            self._tell_failure(pair, error, monotonic() - began)
            return
        if isinstance(outcome, Reading):
            try:
                self._told.succeeded(pair, outcome, monotonic() - began)
            except ValueError as error:  # a number that no metric can hold
                self._tell_failure(pair, probe_error(Reason.PROTOCOL, str(error)), monotonic() - began)
                return
            fields |= {"gpu": outcome.gpu, "decode_tokens_per_second": round(outcome.decode_tokens_per_second, 2)}
            log.info("probe succeeded", extra={"fields": fields})
        else:
            self._told.skipped(pair, outcome)
            log.info("probe skipped", extra={"fields": fields | {"reason": outcome}})

    def _tell_failure(self, pair: ModelKey, error: ProbeError, run_seconds: float) -> None:
        self._told.failed(pair, error.reason, run_seconds)
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
        loaded = {full_name(entry.name) for entry in await server.loaded()}
        wanted = [model for model in wanted if full_name(model.name) in loaded]
        plan = replace(plan, when_unloaded="skip")  # following what users load never loads anything itself
    names = sorted({short_name(model.name) for model in wanted if await _can_be_probed(model, server)})
    return {ModelKey(target.name, name): plan.of(name) for name in names}


async def _can_be_probed(model: InstalledModel, server: OllamaClient) -> bool:
    """Return whether a model generates on this server. Older servers say so in `/api/show` only."""
    if model.cloud:
        return False
    if model.can_generate is not None:
        return model.can_generate
    file = await server.file(model.name, model.digest)
    return not file.cloud and file.can_generate is not False
