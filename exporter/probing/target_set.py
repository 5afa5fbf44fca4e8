"""The targets of the current configuration: started, replaced and stopped as the configuration changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from exporter.gpu.monitor import GpuMonitor
from exporter.plan import ModelKey, ModelPlan, TargetPlan
from exporter.probing.schedule import Schedule
from exporter.probing.target import ProbeObserver, Target
from exporter.probing.turns import ProbeTurns

FIRST_PROBES_SECONDS = 5.0
"""The first probe of every target is started within this time; its other models follow over the interval."""


class ModelRegistry(ProbeObserver, Protocol):
    """Also learns which models and targets there are; `StateStore` is one."""

    def add_model(self, key: ModelKey, plan: ModelPlan) -> None:
        """Add a model, or give a known one a new plan."""

    def remove_model(self, key: ModelKey) -> None:
        """Remove a model that left the configuration."""

    def remove_target(self, target: str) -> None:
        """Remove a target that left the configuration."""


class TargetSet:
    """Runs the targets of a configuration and schedules the probes of their models."""

    def __init__(self, registry: ModelRegistry, monitor: GpuMonitor, max_concurrent_probes: int) -> None:
        """Create an empty set. Needs a running event loop."""
        self._registry = registry
        self._monitor = monitor
        self._targets: dict[str, Target] = {}
        self._places: dict[str, float] = {}
        """Each target's place among all of them, from 0 up to 1."""
        self._schedule = Schedule(ProbeTurns(self._probe, max_concurrent_probes), registry.probe_skipped)

    def start(self) -> None:
        """Start the schedule."""
        self._schedule.start()

    async def apply(self, plans: Sequence[TargetPlan]) -> None:
        """Stop targets that were removed or changed, and start new and changed ones. The others are not touched."""
        wanted = {plan.name: plan for plan in plans}
        self._places = {name: number / len(wanted) for number, name in enumerate(wanted)}
        for name, target in list(self._targets.items()):
            if wanted.get(name) != target.plan:
                await self._stop_target(name, wanted.get(name))
        for name, plan in wanted.items():
            if name not in self._targets:
                await self._start_target(plan)
                await asyncio.sleep(0)  # building a chain takes milliseconds, and scrapes should not wait for all

    async def stop(self) -> None:
        """Stop checking and probing, cancel running probes and close all connections."""
        await asyncio.gather(*(target.stop_checking() for target in self._targets.values()))
        await self._schedule.stop()
        await asyncio.gather(*(target.close() for target in self._targets.values()))

    async def _start_target(self, plan: TargetPlan) -> None:
        for key, model in plan.listed_models().items():
            self._registry.add_model(key, model)
        target = Target(plan, self._monitor, self._registry, self._change_models)
        self._targets[plan.name] = target
        await target.start()

    async def _stop_target(self, name: str, successor: TargetPlan | None) -> None:
        """Stop a target. Models that its successor lists too keep their counters."""
        target = self._targets.pop(name)
        await target.stop_checking()
        staying = successor.listed_models() if successor else {}
        await self._schedule.remove(target.models)
        self._remove_models(key for key in target.models if key not in staying)
        if successor is None:
            self._registry.remove_target(name)
        await target.close()

    async def _change_models(
        self, target: Target, added: Mapping[ModelKey, ModelPlan], removed: Sequence[ModelKey]
    ) -> None:
        """Schedule a target's new models. Its first ones are spread over the interval, later ones are due at once."""
        await self._schedule.remove(removed)
        self._remove_models(removed)
        is_start = not removed and len(added) == len(target.models)
        for index, (key, plan) in enumerate(added.items()):
            self._registry.add_model(key, plan)
            first_in_seconds = 0.0
            if is_start:
                place = FIRST_PROBES_SECONDS * self._places.get(key.target, 0.0)
                first_in_seconds = place + plan.interval_seconds * index / len(added)
            self._schedule.add(key, plan.interval_seconds, first_in_seconds)

    def _remove_models(self, keys: Iterable[ModelKey]) -> None:
        for key in list(keys):
            self._registry.remove_model(key)
            self._monitor.forget(key)

    async def _probe(self, key: ModelKey) -> None:
        await self._targets[key.target].probe(key)
