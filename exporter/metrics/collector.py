"""The collector: turns the state into metric families at a scrape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import Lock

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from exporter.gpu.base import Card
from exporter.logs import dropped_messages
from exporter.metrics.exposition import CachedFamilies
from exporter.metrics.families import (
    CARDS,
    COLLECTORS,
    CONFIG,
    DISCOVERIES,
    FAMILIES,
    PROCESS,
    PROGRAM,
    READINGS,
    SERVERS,
    STATUS,
    ProcessCounters,
)
from exporter.metrics.family import Labels
from exporter.metrics.runtime import IsolatedCollector, runtime_collectors
from exporter.plan import ModelKey
from exporter.reading import Reading
from exporter.state.model_state import ModelState
from exporter.state.store import ConfigState, DiscoveryState, StateStore


def _reading_labels(key: ModelKey, reading: Reading) -> Labels:
    return {**key._asdict(), "gpu": reading.gpu.label}


def _status_labels(key: ModelKey, _: ModelState) -> Labels:
    return key._asdict()


class ProbeCollector:
    """The metrics of this program as one collector of prometheus_client. Can be collected from any thread.

    All families of one scrape come from one list of frozen states, so a scrape never mixes two probes of a model. Lines
    are rendered at the first scrape after their source changed.
    """

    def __init__(
        self, store: StateStore, registry: CollectorRegistry, *, collectors: Sequence[Collector] | None = None
    ) -> None:
        """Register with the registry, together with the runtime collectors unless others are given."""
        self.registry = registry
        self._store = store
        self._cards: Sequence[Card] = ()
        self._lock = Lock()
        self._readings = CachedFamilies(READINGS, _reading_labels)
        self._status = CachedFamilies(STATUS, _status_labels)
        self._servers: CachedFamilies[str, str | None] = CachedFamilies(SERVERS, lambda target, _: {"target": target})
        self._discoveries: CachedFamilies[str, DiscoveryState] = CachedFamilies(
            DISCOVERIES, lambda target, _: {"target": target}
        )
        self._gpus: CachedFamilies[int, Card] = CachedFamilies(CARDS, lambda *_: {})
        self._program: CachedFamilies[None, None] = CachedFamilies(PROGRAM, lambda *_: {})
        self._config: CachedFamilies[None, ConfigState] = CachedFamilies(CONFIG, lambda *_: {})
        self._process: CachedFamilies[None, ProcessCounters] = CachedFamilies(PROCESS, lambda *_: {})
        self._counters = ProcessCounters(0, 0)
        self._failures: CachedFamilies[str, int] = CachedFamilies(COLLECTORS, lambda name, _: {"collector": name})
        registry.register(self)
        chosen = runtime_collectors() if collectors is None else collectors
        self._runtime = [IsolatedCollector(collector) for collector in chosen]
        for collector in self._runtime:
            registry.register(collector)

    def set_cards(self, cards: Sequence[Card]) -> None:
        """Set the GPUs of this machine."""
        self._cards = tuple(cards)

    def describe(self) -> Iterable[Metric]:
        """Return every family without samples, so that registering does not collect."""
        return [family.metric() for family in FAMILIES]

    def collect(self) -> Iterable[Metric]:
        """Return every family that has samples now."""
        with self._lock:  # a second scrape waits for the lines that the first one renders
            now = self._store.monotonic()
            states = {state.key: state for state in self._store.models()}
            readings = {key: reading for key, state in states.items() if (reading := state.reading_at(now))}
            return [
                *self._readings.metrics(readings),
                *self._status.metrics(states),
                *self._servers.metrics(self._store.server_versions()),
                *self._discoveries.metrics(self._store.discoveries()),
                *self._gpus.metrics(dict(enumerate(self._cards))),
                *self._program.metrics({None: None}),
                *self._config.metrics({None: config} if (config := self._store.config()) else {}),
                *self._process.metrics({None: self._process_counters()}),
                *self._failures.metrics({each.name: each.failures for each in self._runtime}),
            ]

    def _process_counters(self) -> ProcessCounters:
        """Return the counters, as the same object while they do not change."""
        counters = ProcessCounters(dropped_messages(), self._store.connections_rejected)
        if counters != self._counters:
            self._counters = counters
        return self._counters
