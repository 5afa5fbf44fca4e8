"""Wires the rooms together: start, reload, shut down."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from exporter import __version__
from exporter.errors import SettingsError
from exporter.gpu.detect import open_gpu_monitor
from exporter.gpu.monitor import GpuMonitor
from exporter.metrics.collector import ProbeCollector
from exporter.plan import ModelKey, ModelPlan, TargetPlan
from exporter.settings import Settings
from exporter.state.store import StateStore
from exporter.web.server import WebServer

if TYPE_CHECKING:  # imported once the program listens: APScheduler, and behind the target LangChain, take their time
    from exporter.probing.schedule import Schedule
    from exporter.probing.target import Target

FIRST_PROBES_SECONDS = 5.0
"""The first probe of each target comes within so many seconds of the start; the others are spread over the interval."""

log = logging.getLogger(__name__)


async def import_late(module: str) -> ModuleType:
    """Import a module off the event loop, in a thread that no shutdown waits for."""
    loop = asyncio.get_running_loop()
    imported: asyncio.Future[ModuleType] = loop.create_future()

    def settle(result: ModuleType | Exception) -> None:
        if imported.done():
            return
        if isinstance(result, Exception):
            imported.set_exception(result)
        else:
            imported.set_result(result)

    def work() -> None:
        result: ModuleType | Exception
        try:
            result = importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - raised again where the import is awaited
            result = error
        with contextlib.suppress(RuntimeError):  # the loop has closed: the program is ending
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=work, name=f"import {module}", daemon=True).start()
    return await imported


def _by_name(settings: Settings) -> dict[str, TargetPlan]:
    """Return the plans of all targets, made once: 200 of them take 20 ms."""
    return {plan.name: plan for plan in settings.plans()}


class Daemon:
    """The exporter at work. `load` reads the settings, at the start and at each reload (SIGHUP)."""

    def __init__(self, load: Callable[[], Settings], registry: CollectorRegistry) -> None:
        self._load = load
        self.settings = load()
        self._plans = _by_name(self.settings)
        self.state = StateStore()
        self._collector = ProbeCollector(self.state, registry)
        self._targets: dict[str, Target] = {}
        self._gpus: GpuMonitor | None = None
        self._schedule: Schedule | None = None
        self._ready = False
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        web = self.settings.web
        self._web = WebServer(
            self._collector.registry,
            self.state,
            addresses=web.listen_addresses,
            telemetry_path=web.telemetry_path,
            ready=lambda: self._ready,
        )

    def stop(self) -> None:
        """End `run`; a second call ends the program at once."""
        if self._stop.is_set():
            log.warning("ending at once")
            os._exit(1)
        log.info("stopping")
        self._stop.set()

    async def run(self, on_listening: Callable[[list[str]], None] = lambda _: None) -> None:
        """Serve and probe until `stop`, or SIGTERM or SIGINT. Raises SettingsError where an address cannot be bound."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        work: asyncio.Task[None] | None = None
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        for plan in self._plans.values():  # known before LangChain is: their series stand from the first scrape on
            self._announce(plan)
        try:
            urls = await self._web.start()
            log.info("listening", extra={"fields": {"version": __version__, "addresses": " ".join(urls)}})
            on_listening(urls)
            work = asyncio.create_task(self._work(), name="work")
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
        finally:
            stopping.cancel()
            await self._shut_down(work)

    async def _work(self) -> None:
        target_module = await import_late("exporter.probing.target")
        self._gpus = await open_gpu_monitor()
        self._collector.set_cards(self._gpus.cards())
        scheduling = await import_late("exporter.probing.schedule")
        await asyncio.to_thread((await import_late("exporter.ollama.chain")).warm_up)
        gc.collect()
        gc.freeze()  # what was imported is 120,000 objects: to go through them stops a probe's clock and delays the end
        turns = scheduling.ProbeTurns(self._probe, self.settings.max_concurrent_probes)
        self._schedule = scheduling.Schedule(turns, self.state.probe_skipped)
        self._schedule.start()
        while True:
            await self._follow_settings(target_module)
            self._ready = True
            await self._reload.wait()
            self._reload.clear()
            self._read_settings()

    def _announce(self, plan: TargetPlan) -> None:
        for key, model in plan.listed_models().items():
            self.state.add_model(key, model)

    def _read_settings(self) -> None:
        try:
            settings = self._load()
        except SettingsError as error:
            log.error("reload refused, the former settings stay", extra={"fields": {"error": str(error)}})  # noqa: TRY400
            return
        if (settings.web, settings.log, settings.max_concurrent_probes) != (
            self.settings.web,
            self.settings.log,
            self.settings.max_concurrent_probes,
        ):
            log.warning("web, log and max_concurrent_probes change at a restart only")
        self.settings = settings
        self._plans = _by_name(settings)
        log.info("settings reloaded")

    async def _follow_settings(self, target_module: ModuleType) -> None:
        """Stop targets that have left or changed, and start the new ones. What did not change goes on untouched."""
        assert self._gpus is not None  # noqa: S101 - opened before
        wanted = self._plans
        for name, target in list(self._targets.items()):
            if wanted.get(name) != target.plan:
                await self._end_target(name, keep=name in wanted)
        for name, plan in wanted.items():
            if name not in self._targets:
                self._announce(plan)
                self._targets[name] = target_module.Target(plan, self._gpus, self.state, self._follow_models)
                await self._targets[name].start()
                await asyncio.sleep(0)  # building a chain takes milliseconds: scrapes come in between

    async def _end_target(self, name: str, *, keep: bool) -> None:
        target = self._targets.pop(name)
        await target.stop_checking()
        if keep:  # under new settings: the counters of the pairs that stay go on
            plan = self._plans[name]
            staying = plan.listed_models()
            await self._drop(pair for pair in target.models if pair not in staying)
            await self._unschedule(target.models)
        else:
            await self._drop(target.models)
            self.state.remove_target(name)
        await target.close()

    async def _unschedule(self, pairs: Iterable[ModelKey]) -> None:
        assert self._schedule is not None  # noqa: S101 - made before any target
        await self._schedule.remove(pairs)

    async def _drop(self, pairs: Iterable[ModelKey]) -> None:
        gone = list(pairs)
        await self._unschedule(gone)
        for pair in gone:
            self.state.remove_model(pair)
            if self._gpus is not None:
                self._gpus.forget(pair)

    async def _follow_models(
        self, target: Target, added: Mapping[ModelKey, ModelPlan], removed: Sequence[ModelKey]
    ) -> None:
        """Schedule a target's models: at its start spread over the interval, one that comes later at once."""
        assert self._schedule is not None  # noqa: S101 - made before any target
        await self._drop(removed)
        starting = not removed and len(added) == len(target.models)
        place = list(self._targets).index(target.plan.name) / max(len(self._plans), 1)
        for index, (pair, plan) in enumerate(added.items()):
            self.state.add_model(pair, plan)
            first_in_seconds = (
                FIRST_PROBES_SECONDS * place + plan.interval_seconds * index / len(added) if starting else 0.0
            )
            self._schedule.add(pair, plan.interval_seconds, first_in_seconds)

    async def _probe(self, pair: ModelKey) -> None:
        await self._targets[pair.target].probe(pair)

    async def _shut_down(self, work: asyncio.Task[None] | None) -> None:
        self._ready = False
        if work is not None:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        await asyncio.gather(*(target.stop_checking() for target in self._targets.values()))
        if self._schedule is not None:
            await self._schedule.stop()
        await asyncio.gather(*(target.close() for target in self._targets.values()))
        if self._gpus is not None:
            await self._gpus.close()
        await self._web.stop()
        log.info("stopped")
