"""The golden expositions: every metric with its HELP, TYPE and labels, for tests and for readers.

Written anew by `PYTHONPATH=tests python -m golden.write`.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry
from support.readings import CARD, FULL, PLAN, TRUNCATED

from exporter import __version__
from exporter.errors import Reason
from exporter.metrics.exposition import Format, render
from exporter.metrics.families import ProbeMetrics
from exporter.plan import ModelKey
from exporter.reading import SkipReason

FILES = {Format.TEXT: "metrics.txt", Format.OPENMETRICS: "openmetrics.txt"}
HERE = Path(__file__).parent


def tell_all(metrics: ProbeMetrics) -> None:
    """Tell of a pair with a full reading, one cut off on the CPU, one that fails, one that was not run yet."""
    pairs = {model: ModelKey("gpu-a", model) for model in ("llama3.1", "slow", "failing", "fresh")}
    for model, pair in pairs.items():
        metrics.add_pair(pair, PLAN if model == "llama3.1" else replace(PLAN.of(model)))
    metrics.server_answered("gpu-a", "0.13.0")
    metrics.server_answered("gpu-b", None)
    metrics.set_cards((CARD,))
    metrics.succeeded(pairs["llama3.1"], FULL, 6.5)
    metrics.succeeded(pairs["slow"], TRUNCATED, 120.5)
    metrics.succeeded(pairs["failing"], FULL, 4.0)
    metrics.failed(pairs["failing"], Reason.STALLED, 0.5)
    metrics.cancelled(pairs["failing"])
    metrics.skipped(pairs["fresh"], SkipReason.LATE, 2)


def expositions() -> dict[Format, str]:
    """Return the scene in each format, versions and library metrics apart."""
    registry = CollectorRegistry()
    tell_all(ProbeMetrics(registry, clock=lambda: 1_700_000_900.0, monotonic=lambda: 0.0, collectors=()))
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
