"""What this program tells Prometheus: the only file that names metrics.

Four label sets: readings carry target, model and gpu; the status of a pair target and model; that of a server target;
the rest describes this program and this machine. No counter's name less `_total` is a gauge's, which OpenMetrics would
count as one family.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from operator import attrgetter
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from exporter import __version__
from exporter.errors import Reason
from exporter.gpu.base import Card
from exporter.metrics.exposition import (
    Block,
    Family,
    Isolated,
    Kind,
    Labels,
    Point,
    Points,
    assemble,
    by,
    info,
    number,
    one,
)
from exporter.plan import ModelKey, ModelPlan
from exporter.reading import Reading, SkipReason
from exporter.state.model_state import BUCKETS_SECONDS, ModelState, ModelStatus, status_of

PREFIX = "ollama_probe_"
PAIR = ("target", "model")
READING = (*PAIR, "gpu")
MODEL_LABELS = ("digest", "model_name", "family", "parameter_size", "quantization", "context_length")
CARD_LABELS = ("uuid", "gpu", "index", "pci_bus_id", "vendor", "driver_version")


def _reading(name: str, help_: str, points: Points[Reading] | None = None) -> Family[Reading]:
    """Return a reading; without `points` it is the attribute of its name."""
    help_ += " Of the last scheduled probe."
    return Family(PREFIX + name, "gauge", READING, help_, points or one(attrgetter(name)))


def _gpu(name: str, help_: str) -> Family[Reading]:
    help_ += " From the first token to the last, by NVML."
    return _reading("gpu_" + name, help_, one(lambda reading: getattr(reading.gpu_state, name, None)))


def _status(name: str, kind: Kind, help_: str, points: Points[ModelState] | None = None) -> Family[ModelState]:
    """Return a pair's status; without `points` it is the attribute of its name less `_total`."""
    return Family(PREFIX + name, kind, PAIR, help_, points or one(attrgetter(name.removesuffix("_total"))))


def _configured(name: str, help_: str) -> Family[ModelState]:
    return _status(name, "gauge", help_, one(attrgetter(f"plan.{name}")))


def _stages(reading: Reading) -> Mapping[str, float]:
    stages = asdict(reading.stages) if reading.stages else {}
    return {name.removesuffix("_seconds"): seconds for name, seconds in stages.items()}


def _durations(record: ModelState) -> Iterable[Point]:
    bounds = (*map(number, BUCKETS_SECONDS), "+Inf")
    for bound, count in zip(bounds, record.durations.counts, strict=True):
        yield "_bucket", {"le": bound}, count
    yield "_count", {}, record.durations.counts[-1]
    yield "_sum", {}, record.durations.sum_seconds


def _model(record: ModelState) -> Iterable[Labels]:
    if record.reading:
        yield {name: str(value or "") for name, value in asdict(record.reading.model).items()}


def _cards(record: ModelState) -> Iterable[Labels]:
    return [{"uuid": uuid} for uuid in dict.fromkeys(record.reading.uuids)] if record.reading else []


def _card(card: Card) -> Labels:
    labels = {name: str(value) for name, value in asdict(card).items()}
    return {"uuid": labels.pop("uuid"), "gpu": labels.pop("name"), **labels}


READINGS: tuple[Family[Reading], ...] = (
    _reading("tokens_per_second", "Words per second of elapsed time: the reference program's figure."),
    _reading(
        "token_count",
        "Whitespace-separated words in the answer, thinking text included; num_predict caps the tokens behind them.",
        one(lambda reading: reading.words),
    ),
    _reading(
        "elapsed_seconds",
        "Wall clock around the LangChain call, the model already loaded; to the last chunk where truncated.",
    ),
    _reading(
        "decode_tokens_per_second",
        "Ollama's eval_count / eval_duration, how fast tokens are generated; by the client's clock where truncated.",
    ),
    _reading("output_tokens", "Ollama's eval_count: tokens generated."),
    _reading("time_to_first_token_seconds", "From the request sent to the first text or thinking, client's clock."),
    _reading(
        "stage_seconds",
        "Ollama's load_duration, prompt_eval_duration (prefill), eval_duration (decode); queue is the rest of its"
        " total_duration.",
        by("stage", _stages),
    ),
    _reading("model_load_seconds", "How long loading took, client's clock; absent where the model was loaded already."),
    _reading(
        "truncated",
        "1 if the stream ended without Ollama's final chunk: rates are by the client's clock, to the last chunk.",
    ),
    _reading(
        "contended",
        "1 if taken beside other work: in Ollama's queue (over 0.25 s), or beside another model, or another process,"
        " on the GPU; absent where it cannot be known.",
        by("by", lambda reading: reading.contended),
    ),
    _reading("distinct_chunks_ratio", "Distinct texts / chunks with text: near 0 where the model repeats itself."),
    _reading("model_gpu_ratio", "Ollama's size_vram / size of /api/ps: what it claims to be on the GPU; can be wrong."),
    _gpu("power_watts", "Mean power of the model's cards together."),
    _gpu("energy_joules", "Energy used by the model's cards together."),
    _gpu("clock_hertz", "Mean SM clock of the slowest of the model's cards."),
    _gpu("clock_max_hertz", "Highest SM clock that the card allows."),
    _gpu("temperature_celsius", "Highest temperature of the model's cards."),
    _gpu("utilization_ratio", "Mean utilization of the model's cards."),
    _reading(
        "gpu_throttled_ratio",
        "Share of the time that the card was throttled, by NVML's reason. From the first token to the last.",
        by("reason", lambda reading: reading.gpu_state.throttled_ratio if reading.gpu_state else {}),
    ),
    _reading("tokens_per_joule", "Ollama's eval_count / energy of the model's cards by NVML."),
    _reading(
        "bandwidth_utilization_ratio",
        "Decode rate x size of /api/tags / the card's peak memory bandwidth: how close to the roofline. Dense models"
        " only.",
    ),
)

STATUS: tuple[Family[ModelState], ...] = (
    _status("success", "gauge", "1 if the last scheduled probe succeeded, else 0."),
    _status(
        "last_run_timestamp_seconds",
        "gauge",
        "When the last scheduled probe ended, good or bad, or found that there was nothing it should measure.",
        one(lambda record: record.last_run),
    ),
    _status(
        "last_success_timestamp_seconds",
        "gauge",
        "When the last good scheduled probe ended.",
        one(lambda record: record.last_success),
    ),
    _configured("interval_seconds", "Configured time from one scheduled probe to the next."),
    _configured("timeout_seconds", "Configured deadline of a probe, loading apart."),
    _configured("expected_decode_tokens_per_second", "Configured decode rate that this pair should reach."),
    _status("runs_total", "counter", "Probes: successes + failures + cancelled."),
    _status("successes_total", "counter", "Probes that gave a reading, truncated ones included."),
    _status(
        "failures_total",
        "counter",
        "Probes that gave no reading, by reason.",
        by("reason", lambda record: record.failures),
    ),
    _status("cancelled_total", "counter", "Probes ended by shutdown or reload."),
    _status(
        "skipped_total",
        "counter",
        "Due probes that measured nothing: model unloaded, server occupied by another model, former run not ended"
        " (overlap), interval mark passed unrun (late).",
        by("reason", lambda record: record.skipped),
    ),
    _status("generated_tokens_total", "counter", "Ollama's eval_count, summed over good, untruncated probes."),
    _status("decode_seconds_total", "counter", "Ollama's eval_duration, summed over good, untruncated probes."),
    _status(
        "gpu_consumed_joules_total",
        "counter",
        "NVML's energy of the model's cards, summed over good, untruncated probes.",
    ),
    _status(
        "run_duration_seconds",
        "histogram",
        "Time from a probe's turn to its verdict, loading included, cancelled ones left out.",
        Points(("le",), _durations),
    ),
    _status(
        "model_info",
        "info",
        "What Ollama says of the model (/api/tags, /api/show; context_length of /api/ps), as of the last good probe.",
        info(_model, *MODEL_LABELS),
    ),
    _status(
        "workload_info",
        "info",
        "The configured work of a probe: hash over template, question, num_predict, temperature, seed and reasoning.",
        info(lambda record: [{"hash": record.plan.workload.hash}], "hash"),
    ),
    _status(
        "model_gpu_info",
        "info",
        "The cards that ran the model in the last good probe, by NVML's uuid.",
        info(_cards, "uuid"),
    ),
)

SERVERS: tuple[Family[str | None], ...] = (
    Family(
        PREFIX + "up",
        "gauge",
        ("target",),
        "1 if Ollama's /api/version answered 200 within 5 s when last asked, else 0.",
        one(lambda version: version is not None),
    ),
    Family(
        PREFIX + "server_info",
        "info",
        ("target",),
        "Version of Ollama as /api/version gave it when last asked.",
        info(lambda version: [] if version is None else [{"version": version}], "version"),
    ),
)

CARDS: tuple[Family[Card], ...] = (
    Family(
        PREFIX + "gpu_info",
        "info",
        (),
        "A card of this machine, as found at start.",
        info(lambda card: [_card(card)], *CARD_LABELS),
    ),
)

PROGRAM: tuple[Family[None], ...] = (
    Family(
        PREFIX + "build_info",
        "info",
        (),
        "Version of ollama-throughput-exporter and of the Python that runs it.",
        info(lambda _: [{"version": __version__, "python": platform.python_version()}], "version", "python"),
    ),
)

COLLECTORS: tuple[Family[int], ...] = (
    Family(
        PREFIX + "collector_failures_total",
        "counter",
        ("collector",),
        "Scrapes that went without the series of one of prometheus_client's collectors, because it failed.",
        one(lambda failures: failures),
    ),
)

FAMILIES: tuple[Family[Any], ...] = (*READINGS, *STATUS, *SERVERS, *CARDS, *PROGRAM, *COLLECTORS)


class Row(NamedTuple):
    """A metric as the documentation lists it."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


def metrics_table() -> list[Row]:
    """Return every metric of this program, in the order of the exposition."""
    return [Row(family.name, family.kind, (*family.labels, *family.points.labels), family.help) for family in FAMILIES]


def runtime_collectors() -> list[Collector]:
    """Return prometheus_client's own collectors: process, platform, garbage collection."""
    nowhere = CollectorRegistry()
    return [ProcessCollector(registry=None), PlatformCollector(registry=nowhere), GCCollector(registry=nowhere)]


class _Entry(NamedTuple):
    """A record and its lines; replaced as one, so that a scrape never sees half of an update."""

    record: ModelState
    status: Block[ModelState]
    reading: Block[Reading] | None


class ProbeMetrics:
    """The metrics of this program as one custom collector. Safe to be collected from any thread, fed from one.

    An event of a pair that has left is dropped: it is the end of a run that a reload outlived. An event with a number
    that is not finite or is negative raises ValueError and changes nothing.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        collectors: Sequence[Collector] | None = None,
    ) -> None:
        self.registry = registry
        self._clock = clock
        self._monotonic = monotonic
        self._entries: dict[ModelKey, _Entry] = {}
        self._servers: dict[str, Block[str | None]] = {}
        self._cards: list[Block[Card]] = []
        self._program = [Block(PROGRAM, {}, None)]
        self._collector_failures: Counter[str] = Counter()
        registry.register(self)
        for collector in runtime_collectors() if collectors is None else collectors:
            isolated = Isolated(collector, self._collector_failed)
            self._collector_failures[isolated.name] = 0
            registry.register(isolated)

    # What has happened.

    def add_pair(self, pair: ModelKey, plan: ModelPlan) -> None:
        """Begin to tell of a pair, all counters at 0; or give a known one a new plan, all counters kept."""
        known = self._entries.get(pair)
        if known:
            self._store(known.record.with_plan(plan), known.reading)
        else:
            self._store(ModelState(pair=pair, plan=plan), None)

    def remove_pair(self, pair: ModelKey) -> None:
        """Drop all series of a pair that left the configuration."""
        self._entries.pop(pair, None)

    def succeeded(self, pair: ModelKey, reading: Reading, run_seconds: float) -> None:
        """Take a good probe; `run_seconds` is from our turn to the verdict, loading included."""
        if entry := self._entries.get(pair):
            # The lines come first: they refuse a number that no sum may take.
            lines = Block(READINGS, {**pair._asdict(), "gpu": reading.gpu}, reading)
            self._store(entry.record.with_success(reading, run_seconds, self._monotonic()), lines)

    def failed(self, pair: ModelKey, reason: Reason, run_seconds: float) -> None:
        """Take a probe that measured nothing; its pair's reading is withdrawn."""
        if entry := self._entries.get(pair):
            self._store(entry.record.with_failure(reason, run_seconds, self._clock()), entry.reading)

    def cancelled(self, pair: ModelKey) -> None:
        """Take a run that shutdown or reload ended."""
        if entry := self._entries.get(pair):
            self._store(entry.record.with_cancelled(), entry.reading)

    def skipped(self, pair: ModelKey, reason: SkipReason, count: int = 1) -> None:
        """Take `count` due runs that measured nothing; the reading stays until its age withdraws it."""
        if entry := self._entries.get(pair):
            self._store(entry.record.with_skipped(reason, count, self._clock()), entry.reading)

    def server_answered(self, target: str, version: str | None) -> None:
        """Take a server's version, or None where it did not answer."""
        self._servers[target] = Block(SERVERS, {"target": target}, version)

    def remove_target(self, target: str) -> None:
        """Drop all series of a target that left the configuration, those of its pairs included."""
        self._servers.pop(target, None)
        for pair in [pair for pair in self._entries if pair.target == target]:
            self.remove_pair(pair)

    def set_cards(self, cards: tuple[Card, ...]) -> None:
        """Take the cards of this machine."""
        self._cards = [Block(CARDS, {}, card) for card in cards]

    def _store(self, record: ModelState, reading: Block[Reading] | None) -> None:
        """Write a record's lines anew, then put it in the place of the old: all or nothing."""
        status = Block(STATUS, record.pair._asdict(), record)
        self._entries[record.pair] = _Entry(record, status, reading if record.reading else None)

    def _collector_failed(self, name: str) -> None:
        self._collector_failures[name] += 1

    # What is told.

    def rows(self) -> list[ModelStatus]:
        """Return every pair as people are shown it, in the order of their adding."""
        now = self._monotonic()
        return [status_of(entry.record, now) for entry in list(self._entries.values())]

    def describe(self) -> Iterable[Metric]:
        """Return every family without samples, so that registering does not collect."""
        return [family.metric() for family in FAMILIES]

    def collect(self) -> Iterable[Metric]:
        """Yield every family that has samples now, all of one moment."""
        now = self._monotonic()
        entries = list(self._entries.values())
        shown = [entry.reading for entry in entries if entry.reading and entry.record.shown(now)]
        servers = list(self._servers.values())
        failures = [Block(COLLECTORS, {"collector": name}, n) for name, n in self._collector_failures.items()]
        yield from assemble(READINGS, shown)
        yield from assemble(STATUS, [entry.status for entry in entries])
        yield from assemble(SERVERS, servers)
        yield from assemble(CARDS, self._cards)
        yield from assemble(PROGRAM, self._program)
        yield from assemble(COLLECTORS, failures)
