"""The daemon: start, reload, shut down."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from exporter import __version__
from exporter.background import run_in_daemon_thread
from exporter.errors import SettingsError
from exporter.gpu.detect import open_gpu_monitor
from exporter.logs import configure_logging, flush_logs, get_logger
from exporter.metrics.collector import ProbeCollector
from exporter.plan import TargetPlan
from exporter.settings import Settings
from exporter.signals import handle_signals
from exporter.state.store import StateStore
from exporter.systemd import ServiceNotifier
from exporter.web.connections import ConnectionLimits
from exporter.web.server import WebServer

if TYPE_CHECKING:  # imported once the server listens: LangChain and APScheduler take more than a second
    from exporter.gpu.monitor import GpuMonitor
    from exporter.probing.target_set import TargetSet

log = get_logger(__name__)


def _import_probing() -> type[TargetSet]:
    """Import everything that a probe needs, and return the class that runs probes."""
    from exporter.ollama.chain import warm_up
    from exporter.probing.target_set import TargetSet

    warm_up()
    return TargetSet


def _summary(settings: Settings, plans: Sequence[TargetPlan]) -> dict[str, Any]:
    """Return what a log message says about a configuration."""
    file = {"file": settings.config_file} if settings.config_file else {}
    listed_models = sum(len(plan.listed_models()) for plan in plans)
    return {**file, "targets": len(plans), "listed_models": listed_models, "interval": str(settings.interval)}


def _check_targets_remain(before: Settings, after: Settings) -> None:
    """Raise SettingsError if the default target would replace configured ones: the file is probably incomplete."""
    if "targets" in before.model_fields_set and "targets" not in after.model_fields_set:
        raise SettingsError(
            f"{after.config_file}: targets: missing, and the running configuration has them. Add them, or restart the"
            " exporter to probe the default target."
        )


def _changes_that_need_a_restart(running: Settings, loaded: Settings) -> list[str]:
    """Return the keys whose values differ from those that the daemon was started with."""
    changed = [
        f"web.{name}"
        for name in type(running.web).model_fields
        if getattr(running.web, name) != getattr(loaded.web, name)
    ]
    if running.max_concurrent_probes != loaded.max_concurrent_probes:
        changed.append("max_concurrent_probes")
    return changed


class Daemon:
    """The running exporter. `load` reads the settings, at the start and at each reload (SIGHUP).

    Raises SettingsError if they cannot be used at the start; a failed reload keeps the previous ones.
    """

    def __init__(self, load: Callable[[], Settings], registry: CollectorRegistry) -> None:
        """Load the settings; nothing is started yet."""
        self._load = load
        self.settings, self._plans = self._load_plans()
        self._settings_at_start = self.settings
        self.state = StateStore()
        self.state.config_loaded()
        self._collector = ProbeCollector(self.state, registry)
        self._monitor: GpuMonitor | None = None
        self._targets: TargetSet | None = None
        self._ready = False
        self._notifier = ServiceNotifier()
        self._stop_requested = asyncio.Event()
        self._reload_requested = asyncio.Event()
        web = self.settings.web
        self._web = WebServer(
            registry,
            self.state,
            addresses=web.listen_addresses,
            telemetry_path=web.telemetry_path,
            ready=lambda: self._ready,
            limits=ConnectionLimits(connections=web.max_connections),
        )

    def stop(self) -> None:
        """Let `run` end; a second call ends the process at once."""
        if self._stop_requested.is_set():
            log.warning("forced shutdown")
            flush_logs()
            os._exit(1)
        log.info("stopping")
        self._stop_requested.set()

    async def run(self, on_listening: Callable[[list[str]], None] = lambda _: None) -> None:
        """Serve and probe until `stop`, SIGTERM or SIGINT. Raises SettingsError if an address cannot be bound."""
        handle_signals({"SIGTERM": self.stop, "SIGINT": self.stop, "SIGHUP": self._reload_requested.set})
        log.info("configuration loaded", **_summary(self.settings, self._plans))
        probing: asyncio.Task[None] | None = None
        stopping = asyncio.create_task(self._stop_requested.wait(), name="stop")
        for plan in self._plans:  # so that their series exist from the first scrape on
            for key, model in plan.listed_models().items():
                self.state.add_model(key, model)
        try:
            urls = await self._web.start()
            log.info("listening", version=__version__, addresses=" ".join(urls), targets=len(self._plans))
            self._notifier.ready()
            on_listening(urls)
            probing = asyncio.create_task(self._probe(), name="probing")
            await asyncio.wait({probing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if probing.done():
                await probing
        finally:
            stopping.cancel()
            await self._shut_down(probing)

    async def _probe(self) -> None:
        target_set = await run_in_daemon_thread(_import_probing, "import")
        self._monitor = await open_gpu_monitor()
        self._collector.set_cards(self._monitor.cards())
        gc.collect()
        gc.freeze()  # collections would traverse 120,000 imported objects: pauses in probes and at the exit
        self._targets = target_set(self.state, self._monitor, self.settings.max_concurrent_probes)
        self._targets.start()
        while True:
            await self._targets.apply(self._plans)
            self._ready = True
            await self._reload_requested.wait()
            self._reload_requested.clear()
            await self.reload()

    async def reload(self) -> None:
        """Load the settings again; the targets are changed later. A failure is logged and changes nothing."""
        message = "failed to reload configuration, keeping the previous one"
        try:
            # In a thread, because 200 targets take 0.1 s, and so may a slow file system.
            settings, plans = await run_in_daemon_thread(self._load_plans, "reload")
            _check_targets_remain(self.settings, settings)
        except SettingsError as error:
            log.error(message, error=str(error))  # noqa: TRY400 - a traceback adds nothing to the message
            self.state.config_reload_failed()
            return
        except Exception:
            log.exception(message)
            self.state.config_reload_failed()
            return
        if settings.log != self.settings.log:
            configure_logging(settings.log.level, settings.log.format)
        self.settings, self._plans = settings, plans
        self.state.config_loaded()
        log.info("configuration reloaded", **_summary(settings, plans))
        if changed := _changes_that_need_a_restart(self._settings_at_start, settings):
            log.warning("restart required to apply changed settings", settings=", ".join(changed))

    def _load_plans(self) -> tuple[Settings, tuple[TargetPlan, ...]]:
        settings = self._load()
        return settings, settings.plans()

    async def _shut_down(self, probing: asyncio.Task[None] | None) -> None:
        self._ready = False
        self._notifier.stopping()
        if probing is not None:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
        if self._targets is not None:
            await self._targets.stop()
        if self._monitor is not None:
            await self._monitor.close()
        await self._web.stop()
        log.info("stopped")
