"""The runtime collectors, and what remains of a scrape when one of them fails."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from support.readings import PLAN

from exporter.metrics.collector import ProbeCollector
from exporter.metrics.exposition import Format, render
from exporter.metrics.runtime import runtime_collectors
from exporter.plan import ModelKey
from exporter.state.store import StateStore

FAILURES = ("ollama_probe_collector_failures_total", {"collector": "Unreliable"})


class Unreliable(Collector):
    """A collector that fails after its first family, while `fails`."""

    fails = True

    def collect(self) -> Iterable[Metric]:
        """Yield one family, then fail or end."""
        yield GaugeMetricFamily("unreliable", "Help.", value=1)
        if self.fails:
            raise OSError("no such file: /proc/self/stat")


def test_a_failing_collector_affects_only_its_own_metrics(caplog: pytest.LogCaptureFixture) -> None:
    """Each failure is counted, only the first of consecutive ones is logged, and the collector may recover."""
    registry, store, unreliable = CollectorRegistry(), StateStore(), Unreliable()
    ProbeCollector(store, registry, collectors=(unreliable,))
    store.add_model(ModelKey("gpu-a", "llama3.1"), PLAN)
    assert registry.get_sample_value(*FAILURES) == 0.0

    with caplog.at_level(logging.ERROR):
        failed = [render(registry, Format.TEXT) for _ in range(3)]
        unreliable.fails = False
        recovered = render(registry, Format.TEXT)
        unreliable.fails = True
        render(registry, Format.TEXT)

    assert all(b"unreliable " not in text and b"ollama_probe_runs_total" in text for text in failed)
    assert b"unreliable 1.0" in recovered
    assert registry.get_sample_value(*FAILURES) == 4.0
    assert len(caplog.records) == 2
    assert all(record.exc_info and record.fields == {"collector": "Unreliable"} for record in caplog.records)  # type: ignore[attr-defined]


def test_runtime_metrics_are_prometheus_clients_own() -> None:
    """Process, platform and garbage collection are exposed, without `_created` series."""
    registry = CollectorRegistry()
    ProbeCollector(StateStore(), registry)
    text = render(registry, Format.TEXT)

    assert len(runtime_collectors()) == 3
    for name in (b"process_resident_memory_bytes", b"python_info", b"python_gc_collections_total"):
        assert b"\n" + name in text
    for collector in (b"ProcessCollector", b"PlatformCollector", b"GCCollector"):
        assert b'ollama_probe_collector_failures_total{collector="%s"} 0.0' % collector in text
    assert b"_created" not in text
