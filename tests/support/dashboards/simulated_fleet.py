"""A simulated fleet: exporters whose probes, clocks and faults follow a fixed scenario of one week."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from prometheus_client import CollectorRegistry
from support.readings import CARD, FULL, PLAN

from exporter.errors import Failure, Reason, SkipReason
from exporter.gpu.base import Card
from exporter.metrics.collector import ProbeCollector
from exporter.metrics.exposition import Format, render
from exporter.metrics.runtime import runtime_collectors
from exporter.plan import ModelKey, ModelPlan
from exporter.reading import CPU, ContendedBy, GpuObservation, GpuState, Reading, Stages, ThrottleReason
from exporter.state.store import StateStore

FAILURE = Failure(Reason.CONNECT, "connection refused", Reason.CONNECT.remedy)
INTERVAL = 900
HOUR, DAY = 3600, 86400
Event = Literal["none", "on_cpu", "down", "occupied", "contended", "truncated", "throttled"]
"""What happens during a probe."""
RATE_FACTORS: dict[Event, float] = {"on_cpu": 0.083, "contended": 0.62, "truncated": 0.03, "throttled": 0.86}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedModel:
    """A model on a target, with its decode rate and the GPU's figures when nothing is wrong."""

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
    SimulatedModel(
        target="gpu-a", name="llama3.1", gpu=RTX, rate=112, gigabytes=4.9, peak_bandwidth=936e9, watts=338, expected=110
    ),
    SimulatedModel(target="gpu-a", name="qwen3:14b", gpu=RTX, rate=63, gigabytes=9.3, peak_bandwidth=936e9, watts=341),
    SimulatedModel(target="gpu-b", name="llama3.1", gpu=RTX, rate=108, gigabytes=4.9, peak_bandwidth=936e9, watts=331),
    SimulatedModel(
        target="gpu-c", name="llama3.1", gpu=A100, rate=171, gigabytes=4.9, peak_bandwidth=2039e9, watts=287
    ),
    SimulatedModel(
        target="gpu-c", name="gemma3:27b", gpu=A100, rate=52, gigabytes=17.4, peak_bandwidth=2039e9, watts=318
    ),
    SimulatedModel(target="gpu-d", name="llama3.1", gpu=RTX, rate=110, gigabytes=4.9, peak_bandwidth=936e9, watts=335),
    SimulatedModel(target="gpu-e", name="llama3.2:3b", gpu=L4, rate=92, gigabytes=2.0, peak_bandwidth=300e9, watts=71),
)


@dataclass(slots=True)
class SimulatedExporter:
    """The exporter of one target. The caller sets its clock, `now`, in Unix seconds."""

    target: str
    models: Sequence[SimulatedModel]
    now: float
    begin: float
    end: float
    random: random.Random
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    store: StateStore = field(init=False)
    collector: ProbeCollector = field(init=False)
    process_metrics: bytes = b""

    def __post_init__(self) -> None:
        """Register the models and the GPU, as the daemon does on start."""
        self.store = StateStore(clock=lambda: self.now, monotonic=lambda: self.now)
        self.collector = ProbeCollector(self.store, self.registry, collectors=())
        process_registry = CollectorRegistry()
        for collector in runtime_collectors():
            process_registry.register(collector)
        self.process_metrics = render(process_registry, Format.OPENMETRICS)
        self.collector.set_cards((self.get_card("550.54.15"),))
        self.store.server_checked(self.target, "0.12.6")
        for model in self.models:
            self.store.add_model(ModelKey(self.target, model.name), self.get_plan(model))

    def get_card(self, driver: str) -> Card:
        """Return the target's GPU with this driver version."""
        uuid = f"GPU-{self.target[-1] * 8}-2222-3333-4444-555555555555"
        return replace(CARD, uuid=uuid, name=self.models[0].gpu, driver_version=driver)

    def get_plan(self, model: SimulatedModel) -> ModelPlan:
        """Return how a model is probed."""
        return replace(PLAN, model=model.name, expected_decode_tokens_per_second=model.expected)

    def run_probes(self, run: int) -> None:
        """Probe every model once. `run` counts the runs from 0."""
        hours_left = (self.end - self.begin - run * INTERVAL) / HOUR
        self.change_versions(hours_left)
        for model in self.models:
            key = ModelKey(self.target, model.name)
            event = find_event(model, run, hours_left)
            if event == "down":
                self.store.probe_failed(key, FAILURE, 5.0)
            elif event == "occupied":
                self.store.probe_skipped(key, SkipReason.OCCUPIED)
            else:
                reading = self.measure(model, event)
                seconds = reading.figures.elapsed_seconds + 0.3 + (reading.model_load_seconds or 0)
                self.store.probe_succeeded(key, reading, seconds)

    def is_rebooting(self) -> bool:
        """Return whether the exporter cannot be scraped, because its machine restarts with another GPU driver.

        The restart takes longer than the lookback delta, because a backfilled series has no stale marker.
        """
        return self.target == "gpu-c" and 15.5 < (self.end - self.now) / HOUR < 16.2

    def change_versions(self, hours_left: float) -> None:
        """Set the versions of server, driver and workload at this time."""
        if self.target == "gpu-b":
            self.store.server_checked(self.target, "0.12.6" if hours_left > 20 else "0.13.0")
        if self.target == "gpu-c":
            self.collector.set_cards((self.get_card("550.54.15" if hours_left > 16 else "570.86.10"),))
            workload = replace(PLAN.workload, seed=42 if hours_left > 11 else 43)
            for model in self.models:
                plan = replace(self.get_plan(model), workload=workload)
                self.store.add_model(ModelKey(self.target, model.name), plan)
        if self.target == "gpu-d":
            self.store.server_checked(self.target, None if 7 < hours_left < 8.5 else "0.12.6")

    def measure(self, model: SimulatedModel, event: Event) -> Reading:
        """Return the reading of one successful probe."""
        rate = model.rate * self.random.gauss(1, 0.012) * RATE_FACTORS.get(event, 1.0)
        truncated, on_cpu = event == "truncated", event in {"on_cpu", "truncated"}
        tokens, words = 256, 187 if model.name.startswith("llama") else 171
        decode = 118.0 if truncated else tokens / rate
        first_token = 0.12 + 3.0 / rate
        stages = Stages(
            queue_seconds=0.004, load_seconds=0.05, prefill_seconds=first_token - 0.06, decode_seconds=decode
        )
        state = self.measure_gpu(model, event, decode)
        loaded = event in {"throttled", "on_cpu"} and self.random.random() < 0.3
        renewed = model.name == "qwen3:14b" and self.now >= self.end - 30 * HOUR
        figures = replace(
            FULL.figures,
            words=int(rate * decode * words / tokens) if truncated else words,
            elapsed_seconds=decode + first_token,
            decode_tokens_per_second=rate,
            output_tokens=None if truncated else tokens,
            time_to_first_token_seconds=first_token,
            stages=None if truncated else stages,
            truncated=truncated,
        )
        gpu = GpuObservation(label=model.gpu, uuids=(self.get_card("").uuid,), state=state)
        contended: dict[ContendedBy, bool] = {"queue": False}
        if not on_cpu:
            contended |= {"model": event == "contended", "gpu": False}
        return replace(
            FULL,
            finished_at=self.now,
            figures=figures,
            gpu=GpuObservation(label=CPU) if on_cpu else gpu,
            model_load_seconds=4.2 if loaded else None,
            contended=contended,
            bandwidth_utilization_ratio=None if on_cpu else rate * model.gigabytes * 1e9 / model.peak_bandwidth,
            installed=replace(
                FULL.installed,
                name=model.name,
                digest="bdbd181c33f2" if renewed else "46e0c10c039e",
                family=model.name[:5],
            ),
        )

    def measure_gpu(self, model: SimulatedModel, event: Event, seconds: float) -> GpuState:
        """Return the state of the GPU during one probe of this many seconds."""
        throttled = dict.fromkeys(ThrottleReason, 0.0)
        throttled[ThrottleReason.SW_POWER_CAP] = min(1.0, abs(self.random.gauss(0.1, 0.04)))
        throttled[ThrottleReason.SW_THERMAL] = 0.55 if event == "throttled" else 0.0
        watts = model.watts * self.random.gauss(1, 0.01)
        by_day = 3 * math.sin(self.now / DAY * 2 * math.pi)
        return GpuState(
            energy_joules=watts * seconds,
            power_watts=watts,
            clock_hertz=(1.41e9 if event == "throttled" else 1.7e9) * self.random.gauss(1, 0.004),
            clock_max_hertz=2.1e9,
            temperature_celsius=(84 if event == "throttled" else 68) + by_day + self.random.random(),
            utilization_ratio=0.96 + 0.03 * self.random.random(),
            throttled_ratio=throttled,
        )


def find_event(model: SimulatedModel, run: int, hours_left: float) -> Event:
    """Return what happens to a model's probe in a run that is `hours_left` before the end."""
    hours_left_today = hours_left % 24
    conditions: dict[Event, bool] = {
        "on_cpu": model.target == "gpu-a" and model.name == "llama3.1" and hours_left < 6,
        "down": model.target == "gpu-d" and 7 < hours_left < 8.5,
        "occupied": model.name == "gemma3:27b" and run % 11 == 3,
        "contended": model.target == "gpu-b" and 2 < hours_left_today < 4 and run % 2 == 1,
        "truncated": model.name == "qwen3:14b" and 12 < hours_left_today < 12.7,
        "throttled": model.target == "gpu-d" and hours_left_today < 4,
    }
    return next((event for event, holds in conditions.items() if holds), "none")
