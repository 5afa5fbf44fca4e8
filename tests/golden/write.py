"""The golden expositions: every metric with its HELP, TYPE and labels, for tests and for readers.

Rewritten by `make golden`.
"""

from __future__ import annotations

import platform
from pathlib import Path

from prometheus_client import CollectorRegistry
from support.readings import CARD, FAILURE, FULL, PLAN, TRUNCATED

from exporter import __version__
from exporter.errors import SkipReason
from exporter.metrics.collector import ProbeCollector
from exporter.metrics.exposition import Format, render
from exporter.plan import ModelKey
from exporter.state.store import DiscoveryState, StateStore

FILES = {Format.TEXT: "metrics.txt", Format.OPENMETRICS: "openmetrics.txt"}
HERE = Path(__file__).parent


def record_all(store: StateStore) -> None:
    """Record a model with a full reading, one truncated on the CPU, one that fails and one not probed yet."""
    keys = {model: ModelKey("gpu-a", model) for model in ("llama3.1", "slow", "failing", "fresh")}
    for model, key in keys.items():
        store.add_model(key, PLAN if model == "llama3.1" else PLAN.of(model))
    store.config_loaded()
    store.server_checked("gpu-a", "0.13.0")
    store.server_checked("gpu-b", None)
    store.discovery_checked("gpu-b", DiscoveryState(success=False, ignored_models=2))
    store.probe_succeeded(keys["llama3.1"], FULL, 6.5)
    store.probe_succeeded(keys["slow"], TRUNCATED, 120.5)
    store.probe_succeeded(keys["failing"], FULL, 4.0)
    store.probe_failed(keys["failing"], FAILURE, 0.5)
    store.probe_cancelled(keys["failing"])
    store.probe_skipped(keys["fresh"], SkipReason.LATE, 2)


def expositions() -> dict[Format, str]:
    """Return the exposition in each format, without versions and runtime metrics."""
    registry = CollectorRegistry()
    store = StateStore(clock=lambda: 1_700_000_900.0, monotonic=lambda: 0.0)
    ProbeCollector(store, registry, collectors=()).set_cards((CARD,))
    record_all(store)
    versions = {f'version="{__version__}"': 'version="x.y.z"', f'python="{platform.python_version()}"': 'python="3.x"'}
    texts = {}
    for format_ in Format:
        texts[format_] = render(registry, format_).decode()
        for version, shown in versions.items():
            texts[format_] = texts[format_].replace(version, shown)
    return texts


if __name__ == "__main__":
    for format_, text in expositions().items():
        (HERE / FILES[format_]).write_text(text, encoding="utf-8")
