"""A week of scrapes of the simulated fleet, written as OpenMetrics and loaded into Prometheus."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support.dashboards.simulated_fleet import FLEET, INTERVAL, SimulatedExporter

from exporter.metrics.exposition import Format, render

JOB = "ollama-throughput"
CONFIG = "storage: {tsdb: {out_of_order_time_window: 30d}}\n"
FLAGS = (
    "--web.enable-remote-write-receiver",
    "--storage.tsdb.retention.time=90d",
    "--storage.tsdb.min-block-duration=30d",
    "--storage.tsdb.max-block-duration=30d",
    "--query.lookback-delta=16m",
)
"""How Prometheus must run: scrapes are 15 minutes apart, and the rules' results are written after them."""


def write_history(file: Path, *, begin: float, end: float, step: float) -> None:
    """Write OpenMetrics with timestamps: one exporter per target, scraped every `step` seconds."""
    with file.open("wb") as out:
        for index, target in enumerate(sorted({model.target for model in FLEET})):
            models = [model for model in FLEET if model.target == target]
            exporter = SimulatedExporter(target, models, begin, begin, end, random.Random(index))
            stamper = Stamper(f'job="{JOB}",instance="{target}:10434"'.encode())
            run = 0
            for scrape in range(int((end - begin) / step) + 1):
                exporter.now = begin + scrape * step
                if exporter.now >= begin + run * INTERVAL + index * 60:
                    exporter.run_probes(run)
                    run += 1
                if exporter.is_rebooting():
                    continue
                text = render(exporter.registry, Format.OPENMETRICS) + exporter.process_metrics + b"up 1\n"
                out.writelines(stamper.stamp(text, exporter.now))
        out.write(b"# EOF\n")


def backfill(promtool: Path, file: Path, data: Path) -> None:
    """Create Prometheus blocks from an OpenMetrics file with timestamps."""
    command = [promtool, "tsdb", "create-blocks-from", "openmetrics", "-q", "--max-block-duration=336h", file, data]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=120)


class Stamper:
    """Adds the labels of a scrape target and a timestamp to sample lines."""

    def __init__(self, labels: bytes) -> None:
        self._labels = labels
        self._known: dict[bytes, bytes] = {}

    def stamp(self, text: bytes, at: float) -> Iterator[bytes]:
        """Yield the sample lines of an exposition, without histogram buckets, which no dashboard shows."""
        end = f" {at:.0f}\n".encode()
        for line in text.splitlines():
            labelled = self._known.get(line)
            if labelled is None:
                labelled = self._known[line] = self._add_labels(line)
            if labelled:
                yield labelled + end

    def _add_labels(self, line: bytes) -> bytes:
        match = re.match(rb"([a-z_]+)(?:\{(.*)\})? (\S+)$", line)
        if not match or match[1].endswith(b"_bucket"):
            return b""
        own = b"," + match[2] if match[2] else b""
        return match[1] + b"{" + self._labels + own + b"} " + match[3]
