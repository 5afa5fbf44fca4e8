"""The collector: turns the state into metric families at a scrape, from lines that are rendered once per change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from exporter.gpu.base import Card
from exporter.metrics.exposition import Block, IsolatedCollector, assemble
from exporter.metrics.families import CARDS, COLLECTORS, FAMILIES, PROGRAM, READINGS, SERVERS, STATUS
from exporter.plan import ModelKey
from exporter.reading import Reading
from exporter.state.model_state import ModelState
from exporter.state.store import StateStore


def runtime_collectors() -> list[Collector]:
    """Return prometheus_client's own collectors: process, platform, garbage collection."""
    unused = CollectorRegistry()
    return [ProcessCollector(registry=None), PlatformCollector(registry=unused), GCCollector(registry=unused)]


class _Rendered(NamedTuple):
    """One model's lines, and the state they were rendered from."""

    state: ModelState
    status: Block[ModelState]
    reading: Block[Reading] | None


class ProbeCollector:
    """The metrics of this program as one collector of prometheus_client. Can be collected from any thread.

    A model's lines are rendered at the first scrape after its state changed, and kept until it changes again.
    """

    def __init__(
        self, store: StateStore, registry: CollectorRegistry, *, collectors: Sequence[Collector] | None = None
    ) -> None:
        """Register with the registry, together with the runtime collectors unless others are given."""
        self.registry = registry
        self._store = store
        self._models: dict[ModelKey, _Rendered] = {}
        self._cards: list[Block[Card]] = []
        self._program = [Block(PROGRAM, {}, None)]
        self._collector_failures: Counter[str] = Counter()
        registry.register(self)
        for collector in runtime_collectors() if collectors is None else collectors:
            isolated = IsolatedCollector(collector, self._collector_failed)
            self._collector_failures[isolated.name] = 0
            registry.register(isolated)

    def set_cards(self, cards: Sequence[Card]) -> None:
        """Set the GPUs of this machine."""
        self._cards = [Block(CARDS, {}, card) for card in cards]

    def describe(self) -> Iterable[Metric]:
        """Return every family without samples, so that registering does not collect."""
        return [family.metric() for family in FAMILIES]

    def collect(self) -> Iterable[Metric]:
        """Yield every family that has samples now, all from one moment."""
        now = self._store.monotonic()
        rendered = self._render()
        readings = [one.reading for one in rendered if one.reading and one.state.reading_at(now)]
        servers = [Block(SERVERS, {"target": name}, version) for name, version in self._store.server_versions().items()]
        failures = [Block(COLLECTORS, {"collector": name}, n) for name, n in self._collector_failures.items()]
        yield from assemble(READINGS, readings)
        yield from assemble(STATUS, [one.status for one in rendered])
        yield from assemble(SERVERS, servers)
        yield from assemble(CARDS, self._cards)
        yield from assemble(PROGRAM, self._program)
        yield from assemble(COLLECTORS, failures)

    def _render(self) -> list[_Rendered]:
        """Return every model's lines; only those of changed models are rendered again."""
        known, current = self._models, {}
        for state in self._store.models():
            last = known.get(state.key)
            current[state.key] = last if last is not None and last.state is state else _rendered(state, last)
        self._models = current
        return list(current.values())

    def _collector_failed(self, name: str) -> None:
        self._collector_failures[name] += 1


def _rendered(state: ModelState, last: _Rendered | None) -> _Rendered:
    labels = state.key._asdict()
    reading = state.last_reading
    block = None
    if reading is not None:
        unchanged = last is not None and last.state.last_reading is reading
        block = last.reading if last and unchanged else Block(READINGS, {**labels, "gpu": reading.gpu.label}, reading)
    return _Rendered(state, Block(STATUS, labels, state), block)
