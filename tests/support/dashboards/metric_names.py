"""The metrics that a dashboard can query, and their labels."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
PROCESS_METRICS = ("process_cpu_seconds_total", "process_resident_memory_bytes")
PROMETHEUS_METRICS = {"up": {"job", "instance"}, "ALERTS": {"job", "target", "model"}}
"""What Prometheus itself records."""


@cache
def list_metrics() -> dict[str, set[str]]:
    """Return the labels of each metric of the exporter, of the shipped rules and of Prometheus.

    Recorded series have no label `instance`, because the rules aggregate it away.
    """
    metrics: dict[str, set[str]] = {}
    for line in _read_golden_metrics().splitlines():
        if match := re.match(r"([a-z_]+)(?:\{(.*)\})? ", line):
            metrics.setdefault(match[1], {"job", "instance"}).update(re.findall(r'([a-z_]+)="', match[2] or ""))
    for name in PROCESS_METRICS:
        metrics.setdefault(name, {"job", "instance"})
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"] if "record" in rule):
        metrics.setdefault(rule["record"], {"job", "target", "model"})
    # The label is one GPU's product name. The variable has the GPU of a reading, which can be several GPUs.
    metrics["ollama_probe_gpu_info"].remove("gpu")
    return metrics | PROMETHEUS_METRICS


@cache
def list_counters() -> frozenset[str]:
    """Return the names of the counters, and of the sums, counts and buckets of histograms."""
    golden = _read_golden_metrics()
    counters = re.findall(r"^# TYPE (\S+) counter$", golden, re.MULTILINE)
    histograms = re.findall(r"^# TYPE (\S+) histogram$", golden, re.MULTILINE)
    parts = [name + part for name in histograms for part in ("_bucket", "_count", "_sum")]
    return frozenset(["process_cpu_seconds_total", *counters, *parts])


def _read_golden_metrics() -> str:
    return (ROOT / "tests/golden/metrics.txt").read_text()
