"""One configured target while the daemon runs: checking its server, following its models, probing them."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from types import MappingProxyType
from typing import Protocol

from exporter.errors import Failure, ProbeError, Reason, SkipReason
from exporter.gpu.monitor import GpuMonitor
from exporter.logs import get_logger
from exporter.ollama.chain import ReferenceChain
from exporter.ollama.client import OllamaClient
from exporter.plan import ModelKey, ModelPlan, TargetPlan
from exporter.probing.discovery import discover
from exporter.probing.prober import Prober
from exporter.reading import Reading

CHECK_SECONDS = 30.0
"""Pause between two checks of a server, so that `up` is less than a minute old even if the answer takes 5 s."""

log = get_logger(__name__)


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
    """A target's client, chain and models.

    `on_models_changed(target, added, removed)` is awaited whenever its models change, after `models` has changed.
    """

    def __init__(
        self,
        plan: TargetPlan,
        gpus: GpuMonitor,
        observer: ProbeObserver,
        on_models_changed: Callable[[Target, Mapping[ModelKey, ModelPlan], Sequence[ModelKey]], Awaitable[None]],
    ) -> None:
        self.plan = plan
        self._models: dict[ModelKey, ModelPlan] = {}
        self._observer = observer
        self._on_models_changed = on_models_changed
        self._client = OllamaClient(plan, lambda version: observer.server_checked(plan.name, version))
        self._chain = ReferenceChain(plan, self._client.auth)
        self._prober = Prober(plan, self._client, self._chain, gpus)
        self._checks: asyncio.Task[None] | None = None

    @property
    def models(self) -> Mapping[ModelKey, ModelPlan]:
        """The models that are probed now: the listed ones, or those discovered by the last check that succeeded."""
        return MappingProxyType(self._models)

    async def start(self) -> None:
        """Add the listed models and begin to check the server."""
        if not isinstance(self.plan.models, str):
            await self._change_models(self.plan.listed_models())
        self._checks = asyncio.create_task(self._keep_checking(), name=f"check {self.plan.name}")

    async def stop_checking(self) -> None:
        """Stop checking the server."""
        if self._checks is not None:
            self._checks.cancel()
            await asyncio.gather(self._checks, return_exceptions=True)

    async def close(self) -> None:
        """Close the connections. Its probes must have ended."""
        await self._chain.close()
        await self._client.close()

    async def probe(self, key: ModelKey) -> None:
        """Probe one of its models, and log and record the result."""
        plan, started_at = self._models[key], monotonic()
        try:
            outcome = await self._prober.probe(plan)
        except asyncio.CancelledError:
            self._observer.probe_cancelled(key)
            raise
        except ProbeError as error:
            self._observer.probe_failed(key, error.failure, monotonic() - started_at)
            self._log_failure(key, error)
            return
        if isinstance(outcome, Reading):
            self._observer.probe_succeeded(key, outcome, monotonic() - started_at)
            rate = round(outcome.figures.decode_tokens_per_second, 2)
            log.info("probe succeeded", **key._asdict(), gpu=outcome.gpu.label, decode_tokens_per_second=rate)
        else:
            self._observer.probe_skipped(key, outcome)
            log.info("probe skipped", **key._asdict(), reason=outcome)

    async def check(self) -> None:
        """Request the server's version and, where models are discovered, its models."""
        try:
            await self._client.version()
            if isinstance(self.plan.models, str):
                await self._change_models(await discover(self.plan, self._client))
        except ProbeError as error:
            log.debug("check failed", target=self.plan.name, reason=error.reason, detail=error.detail)

    async def _keep_checking(self) -> None:
        while True:
            try:
                await self.check()
            except Exception as error:  # noqa: BLE001 - logged with its traceback; the next check goes on
                log.error("unhandled error in check", target=self.plan.name, traceback=self._traceback(error))  # noqa: TRY400 - the traceback is redacted
            await asyncio.sleep(CHECK_SECONDS)

    async def _change_models(self, models: dict[ModelKey, ModelPlan]) -> None:
        added = {key: plan for key, plan in models.items() if key not in self._models}
        removed = [key for key in self._models if key not in models]
        self._models = models
        if added or removed:
            await self._on_models_changed(self, added, removed)

    def _log_failure(self, key: ModelKey, error: ProbeError) -> None:
        fields = {**key._asdict(), "reason": error.reason, "detail": error.detail, "remedy": error.remedy}
        if error.reason is Reason.INTERNAL:
            log.error("probe failed", **fields, traceback=self._traceback(error))
        else:
            log.warning("probe failed", **fields)

    def _traceback(self, error: Exception) -> str:
        """Return an error's traceback, redacted because its causes may quote what was sent."""
        return self._client.auth.redact("".join(traceback.format_exception(error)))
