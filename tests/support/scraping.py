"""A store with clocks that a test moves, and what is exposed of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.metrics.collector import ProbeCollector
from exporter.metrics.exposition import Format, render
from exporter.metrics.families import READINGS
from exporter.plan import ModelKey
from exporter.state.store import StateStore

PARSERS: dict[Format, Callable[[str], Iterable[Metric]]] = {
    Format.TEXT: parse_text,
    Format.OPENMETRICS: parse_openmetrics,
}


def parse(format_: Format, text: str) -> list[Metric]:
    """Return an exposition as prometheus_client's parser of its format reads it, sorted by name."""
    return sorted(PARSERS[format_](text), key=lambda metric: metric.name)


@dataclass
class Scraped:
    """A store, the collector that exposes it without runtime collectors, and short ways to read what it exposes."""

    wall: float = 1_700_000_000.0
    monotonic: float = 5_000.0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        """Create store and collector."""
        self.store = StateStore(clock=lambda: self.wall, monotonic=lambda: self.monotonic)
        self.collector = ProbeCollector(self.store, self.registry, collectors=())

    def value(self, name: str, key: ModelKey, **labels: Any) -> float | None:
        """Return a model's sample, or None if there is none with exactly these labels."""
        return self.registry.get_sample_value(f"ollama_probe_{name}", {**key._asdict(), **labels})

    def values(self, name: str) -> list[float]:
        """Return the values of all samples with this name."""
        found = [sample for metric in self.registry.collect() for sample in metric.samples]
        return [sample.value for sample in found if sample.name == f"ollama_probe_{name}"]

    def reading_names(self) -> set[str]:
        """Return the names of the reading families that have samples."""
        names = {family.name for family in READINGS}
        return {metric.name for metric in self.registry.collect()} & names

    def text(self, format_: Format = Format.TEXT) -> str:
        """Return the exposition."""
        return render(self.registry, format_).decode()
