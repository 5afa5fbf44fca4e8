"""The targets of the current configuration: started, changed and stopped as the configuration changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

from exporter.gpu.monitor import GpuMonitor
from exporter.logs import get_logger
from exporter.ollama.auth import TargetAuth
from exporter.plan import ModelKey, ModelPlan, TargetPlan
from exporter.probing.observer import ModelRegistry
from exporter.probing.phase import due_in_seconds
from exporter.probing.schedule import Schedule
from exporter.probing.slots import Slot
from exporter.probing.target import ModelChanges, Target
from exporter.probing.turns import ProbeTurns

FIRST_PROBES_SECONDS = 5.0
"""The first model of every target that is started is probed within this time; the others follow at their phases."""

log = get_logger(__name__)


class TargetSet:
    """Runs the targets of a configuration and schedules the probes of their models."""

    def __init__(self, registry: ModelRegistry, monitor: GpuMonitor, max_concurrent_probes: int) -> None:
        """Create an empty set. Needs a running event loop."""
        self._registry = registry
        self._monitor = monitor
        self._targets: dict[str, Target] = {}
        self._left_out: set[str] = set()
        """Names of targets that could not be created."""
        self._places: dict[str, float] = {}
        """Each target's place among all of them, from 0 up to 1."""
        self._schedule = Schedule(ProbeTurns(self._probe, max_concurrent_probes), registry.probe_skipped)

    def start(self) -> None:
        """Start the schedule."""
        self._schedule.start()

    async def apply(self, plans: Sequence[TargetPlan]) -> None:
        """Stop targets that were removed, start new ones, and let the others follow their plans.

        A target that cannot be created is logged, counts as not up, and is left out until the next call.
        """
        wanted = {plan.name: plan for plan in plans}
        self._places = {name: number / len(wanted) for number, name in enumerate(wanted)}
        for name in {*self._targets, *self._left_out} - wanted.keys():
            await self._remove_target(name)
        for plan in plans:
            try:
                await self._follow(plan)
            except Exception as error:  # noqa: BLE001 - one target must not end the measuring of the others
                await self._leave_out(plan, error)
            await asyncio.sleep(0)  # building a chain takes milliseconds, and scrapes should not wait for all

    async def stop(self) -> None:
        """Stop checking and probing, cancel running probes and close all connections."""
        await asyncio.gather(*(target.stop_checking() for target in self._targets.values()))
        await self._schedule.stop()
        await asyncio.gather(*(target.close() for target in self._targets.values()))

    async def _follow(self, plan: TargetPlan) -> None:
        target = self._targets.get(plan.name)
        if target is None:
            for key, model in plan.listed_models().items():
                self._registry.add_model(key, model)
            self._targets[plan.name] = target = Target(plan, self._monitor, self._registry, self._change_models)
            self._left_out.discard(plan.name)
            await target.start()
        elif plan.connection != target.plan.connection:
            await target.stop_checking()
            await self._schedule.remove(target.models)
            await target.apply(plan)
            missing = [key for key in target.models if self._schedule.interval_seconds(key) is None]
            self._start_probing(missing, target)
        elif plan != target.plan:
            await target.apply(plan)

    async def _remove_target(self, name: str) -> None:
        target = self._targets.get(name)
        if target is not None:
            await target.stop_checking()
            await self._schedule.remove(target.models)
            self._remove_models(target.models)
            del self._targets[name]
            await target.close()
        self._left_out.discard(name)
        self._registry.remove_target(name)

    async def _leave_out(self, plan: TargetPlan, error: Exception) -> None:
        detail = TargetAuth(plan).redact(f"{type(error).__name__}: {error}")
        log.error("failed to create target, it is not probed", target=plan.name, detail=detail)
        await self._remove_target(plan.name)
        self._left_out.add(plan.name)
        self._registry.server_checked(plan.name, None)

    async def _change_models(self, target: Target, changes: ModelChanges) -> None:
        await self._schedule.remove(changes.removed)
        self._remove_models(changes.removed)
        for key, plan in (*changes.added.items(), *changes.changed.items()):
            self._registry.add_model(key, plan)
        for key, plan in changes.changed.items():
            if self._schedule.interval_seconds(key) not in {None, plan.interval_seconds}:
                self._schedule_model(key, plan)
        if len(changes.added) == len(target.models):
            self._start_probing(list(changes.added), target)
        else:
            for key, plan in changes.added.items():
                self._schedule_model(key, plan, first_in_seconds=0.0)

    def _start_probing(self, keys: Sequence[ModelKey], target: Target) -> None:
        """Schedule the models of a target that is started. Only the first is probed soon."""
        place_seconds = FIRST_PROBES_SECONDS * self._places.get(target.plan.name, 0.0)
        for index, key in enumerate(keys):
            self._schedule_model(key, target.models[key], None if index else place_seconds)

    def _schedule_model(self, key: ModelKey, plan: ModelPlan, first_in_seconds: float | None = None) -> None:
        due_in = due_in_seconds(key, plan.interval_seconds, time.time(), first_in_seconds)
        self._schedule.add(key, plan.interval_seconds, due_in, first_in_seconds)

    def _remove_models(self, keys: Iterable[ModelKey]) -> None:
        for key in list(keys):
            self._registry.remove_model(key)
            self._monitor.forget(key)

    async def _probe(self, key: ModelKey, slot: Slot) -> None:
        await self._targets[key.target].probe(key, slot)
