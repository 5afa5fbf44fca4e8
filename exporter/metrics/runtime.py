"""prometheus_client's own collectors (process, platform, garbage collection), isolated from each other's failures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Lock

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from exporter.logs import get_logger

log = get_logger(__name__)


def runtime_collectors() -> list[Collector]:
    """Return new collectors of this process, this platform and garbage collection, not registered anywhere."""
    unused = CollectorRegistry()
    return [ProcessCollector(registry=None), PlatformCollector(registry=unused), GCCollector(registry=unused)]


class IsolatedCollector:
    """A collector whose failure affects only its own metrics. Can be collected from any thread.

    Every failure is counted; only the first of consecutive ones is logged.
    """

    def __init__(self, collector: Collector) -> None:
        """Wrap a collector."""
        self._collector = collector
        self._failing = False
        self._lock = Lock()
        self.failures = 0

    @property
    def name(self) -> str:
        """The class name of the wrapped collector."""
        return type(self._collector).__name__

    def describe(self) -> Iterable[Metric]:
        """Return the families that the collector describes."""
        describe: Callable[[], Iterable[Metric]] = getattr(self._collector, "describe", list)
        return describe()

    def collect(self) -> Iterable[Metric]:
        """Return the collector's families, or none if it fails."""
        with self._lock:
            try:
                metrics = list(self._collector.collect())
            except Exception:
                self.failures += 1
                if not self._failing:
                    log.exception("runtime collector failed, its metrics are missing", collector=self.name)
                self._failing = True
                return []
            self._failing = False
            return metrics
