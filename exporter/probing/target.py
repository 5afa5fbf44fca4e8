"""One configured target while the daemon runs: checking its server, following its models, probing them."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from types import MappingProxyType

from exporter.errors import ProbeError, Reason
from exporter.gpu.monitor import GpuMonitor
from exporter.logs import get_logger
from exporter.ollama.chain import ChunkRecorder, ReferenceChain
from exporter.ollama.client import OllamaClient
from exporter.plan import ModelKey, ModelPlan, TargetPlan
from exporter.probing.discovery import Discovered, DiscoveryLog, discover, discovered_plan
from exporter.probing.observer import ProbeObserver
from exporter.probing.prober import Prober
from exporter.probing.slots import Slot
from exporter.reading import Reading
from exporter.state.store import DiscoveryState

CHECK_SECONDS = 30.0
"""Pause between two checks of a server, so that `up` is less than a minute old even if the answer takes 5 s."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChanges:
    """How the models of a target changed. A model with another plan is changed."""

    added: Mapping[ModelKey, ModelPlan]
    changed: Mapping[ModelKey, ModelPlan]
    removed: Sequence[ModelKey]


class Target:
    """A target's client, chain and models.

    `on_models_changed(target, changes)` is awaited whenever its models change, after `models` has changed. Creating one
    may raise any exception with which a library rejects its configuration.
    """

    def __init__(
        self,
        plan: TargetPlan,
        gpus: GpuMonitor,
        observer: ProbeObserver,
        on_models_changed: Callable[[Target, ModelChanges], Awaitable[None]],
    ) -> None:
        self.plan: TargetPlan
        self._client: OllamaClient
        self._chain: ReferenceChain
        self._prober: Prober
        self._models: dict[ModelKey, ModelPlan] = {}
        self._gpus = gpus
        self._observer = observer
        self._on_models_changed = on_models_changed
        self._changing = asyncio.Lock()
        """Held while `models` changes, so that a check is never cancelled halfway through a change."""
        self._checks: asyncio.Task[None] | None = None
        self._discovery_log = DiscoveryLog(plan.name)
        self._ignored_models: int | None = None
        self._connect(plan)

    @property
    def models(self) -> Mapping[ModelKey, ModelPlan]:
        """The models that are probed now: the listed ones, or those discovered by the last check that succeeded."""
        return MappingProxyType(self._models)

    async def start(self) -> None:
        """Add the listed models and begin to check the server."""
        await self._follow_plan()

    async def apply(self, plan: TargetPlan) -> None:
        """Follow another plan for the same target. What it does not change goes on, probes included.

        Probes that run keep their plan, and the next ones have the new one. If the connection changes, the client is
        replaced, so no probe may run then. May raise what creating a client raises; nothing has changed then, except
        that the server is no longer checked.
        """
        await self.stop_checking()
        if plan.connection == self.plan.connection:
            self.plan = plan
            self._prober = Prober(plan, self._client, self._chain, self._gpus)
        else:
            chain, client = self._chain, self._client
            self._connect(plan)
            await chain.close()
            await client.close()
        await self._follow_plan()

    async def stop_checking(self) -> None:
        """Stop checking the server."""
        async with self._changing:
            if self._checks is not None:
                self._checks.cancel()
        if self._checks is not None:
            await asyncio.gather(self._checks, return_exceptions=True)

    async def close(self) -> None:
        """Close the connections. Its probes must have ended."""
        await self._chain.close()
        await self._client.close()

    async def probe(self, key: ModelKey, slot: Slot | None = None) -> None:
        """Probe one of its models, and log and record the result. `slot` observes the chunks that arrive."""
        plan, started_at = self._models[key], monotonic()
        chunks = ChunkRecorder()
        if slot is not None:
            slot.count_chunks = lambda: len(chunks.times)
        try:
            outcome = await self._prober.probe(plan, chunks=chunks)
        except asyncio.CancelledError:
            self._observer.probe_cancelled(key)
            raise
        except ProbeError as error:
            self._observer.probe_failed(key, error.failure, monotonic() - started_at)
            self._log_failure(key, error)
            return
        if self._models.get(key, plan).workload != plan.workload:  # its rate would appear under another workload's hash
            self._observer.probe_cancelled(key)
            log.info("probe discarded, its request was reconfigured meanwhile", **key._asdict())
        elif isinstance(outcome, Reading):
            self._observer.probe_succeeded(key, outcome, monotonic() - started_at)
            rate = round(outcome.figures.decode_tokens_per_second, 2)
            log.info("probe succeeded", **key._asdict(), gpu=outcome.gpu.label, decode_tokens_per_second=rate)
        else:
            self._observer.probe_skipped(key, outcome)
            log.info("probe skipped", **key._asdict(), reason=outcome)

    async def check(self) -> None:
        """Request the server's version and, where models are discovered, its models."""
        discovers = isinstance(self.plan.models, str)
        try:
            await self._client.version()
            if discovers:
                await self._follow_discovery(await discover(self.plan, self._client))
        except ProbeError as error:
            log.debug("check failed", target=self.plan.name, reason=error.reason, detail=error.detail)
            if discovers:
                self._discovery_log.failed(error)
                self._record_discovery(success=False)

    def _connect(self, plan: TargetPlan) -> None:
        client = OllamaClient(plan, lambda version: self._observer.server_checked(plan.name, version))
        chain = ReferenceChain(plan, client.auth)
        self.plan, self._client, self._chain = plan, client, chain
        self._prober = Prober(plan, client, chain, self._gpus)

    async def _follow_plan(self) -> None:
        """Follow the models of the plan and begin to check the server. Discovered models are kept until the check."""
        plan = self.plan
        if isinstance(plan.models, str):
            known = islice(self._models.items(), plan.max_models)
            await self._change_models({key: discovered_plan(plan, model.model) for key, model in known})
        else:
            self._observer.discovery_checked(plan.name, None)
            self._discovery_log, self._ignored_models = DiscoveryLog(plan.name), None
            await self._change_models(plan.listed_models())
        self._checks = asyncio.create_task(self._keep_checking(), name=f"check {plan.name}")

    async def _follow_discovery(self, found: Discovered) -> None:
        """Follow the models that were found. Those known before are kept while the server does not describe them."""
        self._discovery_log.succeeded(found)
        self._ignored_models = found.ignored
        self._record_discovery(success=True)
        kept = {key: self._models[key] for key in found.failed if key in self._models}
        await self._change_models({**found.models, **kept})

    def _record_discovery(self, *, success: bool) -> None:
        state = DiscoveryState(success=success, ignored_models=self._ignored_models)
        self._observer.discovery_checked(self.plan.name, state)

    async def _keep_checking(self) -> None:
        while True:
            try:
                await self.check()
            except Exception as error:  # noqa: BLE001 - logged with its traceback; the next check goes on
                log.error("unhandled error in check", target=self.plan.name, traceback=self._traceback(error))  # noqa: TRY400 - the traceback is redacted
            await asyncio.sleep(CHECK_SECONDS)

    async def _change_models(self, models: dict[ModelKey, ModelPlan]) -> None:
        async with self._changing:
            before, self._models = self._models, models
            changes = ModelChanges(
                added={key: plan for key, plan in models.items() if key not in before},
                changed={key: plan for key, plan in models.items() if before.get(key, plan) != plan},
                removed=[key for key in before if key not in models],
            )
            if changes.added or changes.changed or changes.removed:
                await self._on_models_changed(self, changes)

    def _log_failure(self, key: ModelKey, error: ProbeError) -> None:
        fields = {**key._asdict(), "reason": error.reason, "detail": error.detail, "remedy": error.remedy}
        if error.reason is Reason.INTERNAL:
            log.error("probe failed", **fields, traceback=self._traceback(error))
        else:
            log.warning("probe failed", **fields)

    def _traceback(self, error: Exception) -> str:
        """Return an error's traceback, redacted because its causes may quote what was sent."""
        return self._client.auth.redact("".join(traceback.format_exception(error)))
