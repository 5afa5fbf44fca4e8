"""A fleet's history as Prometheus would have scraped it: simulated probes, told by the product's own metrics."""

from __future__ import annotations

import math
import random
import re
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client import CollectorRegistry
from support import programs
from support.readings import CARD, FULL, PLAN

from exporter.errors import Failure, Reason, SkipReason
from exporter.metrics.collector import ProbeCollector, runtime_collectors
from exporter.metrics.exposition import Format, render
from exporter.plan import ModelKey, ModelPlan
from exporter.reading import CPU, Figures, GpuObservation, GpuState, Reading, Stages, ThrottleReason
from exporter.state.store import StateStore

FAILURE = Failure(Reason.CONNECT, "connection refused", Reason.CONNECT.remedy)
JOB = "ollama-throughput"
INTERVAL = 900
HOUR, DAY = 3600, 86400
CONFIG = "storage: {tsdb: {out_of_order_time_window: 30d}}\n"
FLAGS = (
    "--web.enable-remote-write-receiver",
    "--storage.tsdb.retention.time=90d",
    "--storage.tsdb.min-block-duration=30d",
    "--storage.tsdb.max-block-duration=30d",
    "--query.lookback-delta=16m",
)
"""The history is scraped seldom, to be short; the rules' results come after it, for times before."""
STALE: float = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
"""Prometheus' mark of a series' end."""
MINUTES = {"1m": 60, "5m": 300}
Series = tuple[dict[str, str], list[tuple[float, float]]]
RULES = Path(__file__).parents[3] / "deploy/prometheus/rules.yml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model on a GPU, as fast as it is when all is well."""

    target: str
    name: str
    gpu: str
    rate: float
    gigabytes: float
    peak_bandwidth: float
    watts: float
    expected: float | None = None


RTX, A100, L4 = "NVIDIA GeForce RTX 3090", "NVIDIA A100-SXM4-80GB", "NVIDIA L4"
FLEET = (
    Model(
        target="gpu-a", name="llama3.1", gpu=RTX, rate=112, gigabytes=4.9, peak_bandwidth=936e9, watts=338, expected=110
    ),
    Model(target="gpu-a", name="qwen3:14b", gpu=RTX, rate=63, gigabytes=9.3, peak_bandwidth=936e9, watts=341),
    Model(target="gpu-b", name="llama3.1", gpu=RTX, rate=108, gigabytes=4.9, peak_bandwidth=936e9, watts=331),
    Model(target="gpu-c", name="llama3.1", gpu=A100, rate=171, gigabytes=4.9, peak_bandwidth=2039e9, watts=287),
    Model(target="gpu-c", name="gemma3:27b", gpu=A100, rate=52, gigabytes=17.4, peak_bandwidth=2039e9, watts=318),
    Model(target="gpu-d", name="llama3.1", gpu=RTX, rate=110, gigabytes=4.9, peak_bandwidth=936e9, watts=335),
    Model(target="gpu-e", name="llama3.2:3b", gpu=L4, rate=92, gigabytes=2.0, peak_bandwidth=300e9, watts=71),
)


@dataclass(slots=True)
class Exporter:
    """One exporter beside one server, with clocks that the history moves."""

    target: str
    models: Sequence[Model]
    at: float
    healthy: bool
    begin: float
    end: float
    random: random.Random
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    store: StateStore = field(init=False)
    collector: ProbeCollector = field(init=False)
    process: bytes = b""

    def __post_init__(self) -> None:
        """Register the pairs and the card, as the daemon does at start."""
        self.store = StateStore(clock=lambda: self.at, monotonic=lambda: self.at)
        self.collector = ProbeCollector(self.store, self.registry, collectors=())
        program = CollectorRegistry()
        for collector in runtime_collectors():
            program.register(collector)
        self.process = render(program, Format.OPENMETRICS)
        self.collector.set_cards((self.card("550.54.15"),))
        self.store.server_checked(self.target, "0.12.6")
        for model in self.models:
            self.store.add_model(ModelKey(self.target, model.name), self.plan(model))

    def card(self, driver: str) -> Any:
        """Return the machine's card."""
        uuid = f"GPU-{self.target[-1] * 8}-2222-3333-4444-555555555555"
        return replace(CARD, uuid=uuid, name=self.models[0].gpu, driver_version=driver)

    def plan(self, model: Model) -> ModelPlan:
        """Return how a model is probed."""
        return replace(PLAN, model=model.name, expected_decode_tokens_per_second=model.expected)

    def run(self, number: int) -> None:
        """Probe every model once, as the scene of this time has it."""
        if not self.healthy:
            self.change(number)
        for model in self.models:
            pair = ModelKey(self.target, model.name)
            event = "" if self.healthy else self.event(model, number)
            if event == "down":
                self.store.probe_failed(pair, FAILURE, 5.0)
            elif event == "occupied":
                self.store.probe_skipped(pair, SkipReason.OCCUPIED)
            else:
                reading = self.reading(model, event)
                seconds = reading.figures.elapsed_seconds + 0.3 + (reading.model_load_seconds or 0)
                self.store.probe_succeeded(pair, reading, seconds)

    def rebooting(self) -> bool:
        """Whether nothing can be scraped: the machine starts again with another driver.

        It takes longer than the lookback, since a backfilled series has no mark of its end.
        """
        return not self.healthy and self.target == "gpu-c" and 15.5 < (self.end - self.at) / HOUR < 16.2

    def left(self, number: int) -> float:
        """Return the hours from a run to the history's end."""
        return (self.end - self.begin) / HOUR - number * INTERVAL / HOUR

    def change(self, number: int) -> None:
        """Change what a server or a machine says of itself, at the scene's times."""
        left = self.left(number)
        if self.target == "gpu-b":
            self.store.server_checked(self.target, "0.12.6" if left > 20 else "0.13.0")
        if self.target == "gpu-c":
            self.collector.set_cards((self.card("550.54.15" if left > 16 else "570.86.10"),))
            workload = replace(PLAN.workload, seed=42 if left > 11 else 43)
            for model in self.models:
                self.store.add_model(ModelKey(self.target, model.name), replace(self.plan(model), workload=workload))
        if self.target == "gpu-d":
            self.store.server_checked(self.target, None if 7 < left < 8.5 else "0.12.6")

    def event(self, model: Model, number: int) -> str:
        """Return what befalls a probe."""
        left = self.left(number)
        if model.target == "gpu-a" and model.name == "llama3.1" and left < 6:
            return CPU
        if model.target == "gpu-d" and 7 < left < 8.5:
            return "down"
        if model.name == "gemma3:27b" and number % 11 == 3:
            return "occupied"
        if model.target == "gpu-b" and 2 < left % 24 < 4 and number % 2:
            return "shared"
        if model.name == "qwen3:14b" and 12 < left % 24 < 12.7:
            return "slow"
        return "warm" if model.target == "gpu-d" and left % 24 < 4 else ""

    def reading(self, model: Model, event: str) -> Reading:
        """Return the reading of one good probe."""
        rate = model.rate * self.random.gauss(1, 0.012)
        rate *= {CPU: 0.083, "shared": 0.62, "slow": 0.03, "warm": 0.86}.get(event, 1.0)
        cut = event == "slow"
        tokens, words = 256, 187 if model.name.startswith("llama") else 171
        decode = 118.0 if cut else tokens / rate
        first = 0.12 + 3.0 / rate
        stages = Stages(queue_seconds=0.004, load_seconds=0.05, prefill_seconds=first - 0.06, decode_seconds=decode)
        off = event in {CPU, "slow"}
        throttled = dict.fromkeys(ThrottleReason, 0.0)
        throttled[ThrottleReason.SW_POWER_CAP] = min(1.0, abs(self.random.gauss(0.1, 0.04)))
        throttled[ThrottleReason.SW_THERMAL] = 0.55 if event == "warm" else 0.0
        watts = model.watts * self.random.gauss(1, 0.01)
        state = GpuState(
            energy_joules=watts * decode,
            power_watts=watts,
            clock_hertz=(1.41e9 if event == "warm" else 1.7e9) * self.random.gauss(1, 0.004),
            clock_max_hertz=2.1e9,
            temperature_celsius=(84 if event == "warm" else 68)
            + 3 * math.sin(self.at / DAY * 2 * math.pi)
            + self.random.random(),
            utilization_ratio=0.96 + 0.03 * self.random.random(),
            throttled_ratio=throttled,
        )
        digest = (
            "46e0c10c039e"
            if self.healthy or model.name != "qwen3:14b" or self.at < self.end - 30 * HOUR
            else "bdbd181c33f2"
        )
        figures = Figures(
            words=int(rate * decode * words / tokens) if cut else words,
            elapsed_seconds=decode + first,
            decode_tokens_per_second=rate,
            output_tokens=None if cut else tokens,
            prompt_tokens=46,
            time_to_first_token_seconds=first,
            stages=None if cut else stages,
            truncated=cut,
            distinct_chunks_ratio=0.5,
        )
        return replace(
            FULL,
            finished_at=self.at,
            figures=figures,
            gpu=GpuObservation(label=CPU)
            if off
            else GpuObservation(label=model.gpu, uuids=(self.card("").uuid,), state=state),
            model_load_seconds=4.2 if event in {"warm", CPU} and self.random.random() < 0.3 else None,
            contended={"queue": False} if off else {"queue": False, "model": event == "shared", "gpu": False},
            bandwidth_utilization_ratio=None if off else rate * model.gigabytes * 1e9 / model.peak_bandwidth,
            installed=replace(FULL.installed, name=model.name, digest=digest, family=model.name[:5]),
        )


def write(file: Path, *, begin: float, end: float, step: float, healthy: bool) -> None:
    """Write OpenMetrics with time stamps: one exporter beside each server, scraped every `step` seconds."""
    targets = sorted({model.target for model in FLEET})
    exporters = []
    for index, target in enumerate(targets):
        models = [model for model in FLEET if model.target == target]
        exporters.append((index, Exporter(target, models, begin, healthy, begin, end, random.Random(index))))
    with file.open("wb") as out:
        for index, exporter in exporters:
            labels = f'job="{JOB}",instance="{exporter.target}:10434"'.encode()
            stamp = Stamp(labels)
            run = 0
            for scrape in range(int((end - begin) / step) + 1):
                exporter.at = begin + scrape * step
                if exporter.at >= begin + run * INTERVAL + index * 60:
                    exporter.run(run)
                    run += 1
                if exporter.rebooting():
                    continue
                text = render(exporter.registry, Format.OPENMETRICS) + exporter.process + b"up 1\n"
                out.writelines(stamp.lines(text, exporter.at))
        out.write(b"# EOF\n")


class Stamp:
    """Gives sample lines the labels of a scrape's target, and its time."""

    def __init__(self, labels: bytes) -> None:
        self._labels = labels
        self._known: dict[bytes, bytes] = {}

    def lines(self, text: bytes, at: float) -> Iterator[bytes]:
        """Yield an exposition's sample lines; buckets are left out, which no board shows."""
        end = f" {at:.0f}\n".encode()
        for line in text.splitlines():
            stamped = self._known.get(line)
            if stamped is None:
                stamped = self._known[line] = self._label(line)
            if stamped:
                yield stamped + end

    def _label(self, line: bytes) -> bytes:
        match = re.match(rb"([a-z_]+)(?:\{(.*)\})? (\S+)$", line)
        if not match or match[1].endswith(b"_bucket"):
            return b""
        own = b"," + match[2] if match[2] else b""
        return match[1] + b"{" + self._labels + own + b"} " + match[3]


def backfill(promtool: Path, file: Path, data: Path) -> None:
    """Make blocks of a file with time-stamped OpenMetrics."""
    command = [promtool, "tsdb", "create-blocks-from", "openmetrics", "-q", "--max-block-duration=336h", file, data]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=120)


def evaluate_rules(prometheus: programs.Prometheus, *, begin: float, end: float) -> None:
    """Evaluate the shipped rules over a history, and write what they record, and their firing alerts, beside it.

    Each rule is one range query, after those that it reads. What a rule remembers of itself it does not see, nor how
    long an alert must last: both need a rule manager, whose clock cannot be moved.
    """
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = [rule | {"step": MINUTES[group["interval"]]} for group in groups for rule in group["rules"]]
    records = {rule["record"] for rule in rules if "record" in rule}
    known: set[str] = set()
    while rules:
        ready = [rule for rule in rules if names_in(rule["expr"]) & records - {rule.get("record")} <= known]
        rules = [rule for rule in rules if rule not in ready]
        # A name that several rules record is known only after the last of them.
        known |= {rule["record"] for rule in ready if "record" in rule} - {rule.get("record") for rule in rules}
        for rule in ready:
            remote_write(prometheus, list(recorded(prometheus, rule, begin, end)))


def names_in(expression: str) -> set[str]:
    """Return the names of recorded series that an expression reads."""
    return set(re.findall(r"ollama_probe(?::\w+)+", expression))


def recorded(prometheus: programs.Prometheus, rule: dict[str, Any], begin: float, end: float) -> Iterator[Series]:
    """Yield what a rule records at its group's interval, or its alert while that holds; each run has its end."""
    step = rule["step"]
    answer = prometheus.get("query_range", query=rule["expr"], start=begin, end=end, step=step)
    alert = {"alertname": rule["alert"], "alertstate": "firing"} if "alert" in rule else {}
    for series in answer["result"]:
        labels = series["metric"] | {"__name__": rule.get("record", "ALERTS")} | rule.get("labels", {}) | alert
        samples: list[tuple[float, float]] = []
        for at, value in series["values"]:
            if samples and at - samples[-1][0] > step:
                samples.append((samples[-1][0] + step, STALE))
            samples.append((at, 1.0 if alert else float(value)))
        if samples[-1][0] < end - step:
            samples.append((samples[-1][0] + step, STALE))
        yield labels, samples


def remote_write(prometheus: programs.Prometheus, series: Sequence[Series]) -> None:
    """Write series to Prometheus' remote-write receiver: the only way in that takes the mark of a series' end."""
    body = b"".join(_field(1, _series(labels, samples)) for labels, samples in series)
    url = f"{prometheus.url}/api/v1/write"
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
    headers["X-Prometheus-Remote-Write-Version"] = "0.1.0"
    answer = httpx.post(url, content=_snappy(body), headers=headers, **programs.PLAIN, timeout=60)
    assert answer.is_success, answer.text


def _series(labels: dict[str, str], samples: Sequence[tuple[float, float]]) -> bytes:
    """Return a `prometheus.TimeSeries`: labels (1: name 1, value 2) and samples (2: value 1, milliseconds 2)."""
    names = (_field(1, _field(1, name.encode()) + _field(2, value.encode())) for name, value in sorted(labels.items()))
    values = (b"\x12\x10\x09" + struct.pack("<d", value) + _time(at) for at, value in samples)
    return b"".join(names) + b"".join(values)


@cache
def _time(at: float) -> bytes:
    """Return a sample's second field; the time takes six bytes, from 2004 until 2109."""
    return b"\x10" + _varint(round(at * 1000))


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _snappy(content: bytes) -> bytes:
    """Return content as a snappy block of literals, uncompressed."""
    parts = (content[at : at + 65536] for at in range(0, len(content), 65536))
    return _varint(len(content)) + b"".join(b"\xf4" + struct.pack("<H", len(part) - 1) + part for part in parts)
