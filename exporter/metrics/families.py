"""The metric families of this program: the only file that names metrics.

There are four label sets: a reading has target, model and gpu; a model's status has target and model; a server's status
has target; the rest describes this program and this machine. No counter may have the name of a gauge with `_total`
appended, because OpenMetrics would treat the two as one family.

To add a metric, add a family here. Its value is an attribute of `Reading` or `ModelState`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from operator import attrgetter
from typing import Any, NamedTuple

from exporter import __version__
from exporter.gpu.base import Card
from exporter.metrics.family import Family, Kind, Labels, Point, Points, by, format_number, info, one
from exporter.reading import Reading
from exporter.state.histogram import BUCKETS_SECONDS
from exporter.state.model_state import ModelState
from exporter.state.store import ConfigState, DiscoveryState

PREFIX = "ollama_probe_"
MODEL = ("target", "model")
READING = (*MODEL, "gpu")
MODEL_LABELS = ("digest", "model_name", "family", "parameter_size", "quantization", "context_length")
CARD_LABELS = ("uuid", "gpu", "index", "pci_bus_id", "vendor", "driver_version")


class ProcessCounters(NamedTuple):
    """What this process has counted outside of probes."""

    log_messages_dropped: int
    http_connections_rejected: int


def _reading(name: str, help_: str, points: Points[Reading]) -> Family[Reading]:
    return Family(PREFIX + name, "gauge", READING, help_, points)


def _figure(name: str, help_: str) -> Family[Reading]:
    """Return the family of the `Figures` attribute of this name."""
    return _reading(name, help_, one(attrgetter(f"figures.{name}")))


def _of_reading(name: str, help_: str) -> Family[Reading]:
    """Return the family of the `Reading` attribute of this name."""
    return _reading(name, help_, one(attrgetter(name)))


def _gpu(name: str, help_: str) -> Family[Reading]:
    """Return the family of the `GpuState` attribute of this name."""
    get: Callable[[Reading], float | None] = lambda reading: getattr(reading.gpu.state, name, None)  # noqa: E731
    return _reading(f"gpu_{name}", help_, one(get))


def _status(name: str, kind: Kind, help_: str, points: Points[ModelState] | None = None) -> Family[ModelState]:
    """Return a family of a model's status; without `points` it is the attribute of the same name without `_total`."""
    return Family(PREFIX + name, kind, MODEL, help_, points or one(attrgetter(name.removesuffix("_total"))))


def _configured(name: str, help_: str) -> Family[ModelState]:
    """Return the family of the `ModelPlan` attribute of this name."""
    return _status(name, "gauge", help_, one(attrgetter(f"plan.{name}")))


def _stages(reading: Reading) -> Mapping[str, float]:
    stages = asdict(reading.figures.stages) if reading.figures.stages else {}
    return {name.removesuffix("_seconds"): seconds for name, seconds in stages.items()}


def _durations(state: ModelState) -> Iterable[Point]:
    bounds = (*map(format_number, BUCKETS_SECONDS), "+Inf")
    for bound, count in zip(bounds, state.durations.counts, strict=True):
        yield "_bucket", {"le": bound}, count
    yield "_count", {}, state.durations.counts[-1]
    yield "_sum", {}, state.durations.sum_seconds


def _cards_of_model(state: ModelState) -> Iterable[Labels]:
    return [{"uuid": uuid} for uuid in dict.fromkeys(state.last_reading.gpu.uuids)] if state.last_reading else []


def _card(card: Card) -> Labels:
    return {
        "uuid": card.uuid,
        "gpu": card.name,
        "index": str(card.index),
        "pci_bus_id": card.pci_bus_id,
        "vendor": card.vendor,
        "driver_version": card.driver_version,
    }


READINGS: tuple[Family[Reading], ...] = (
    _figure("tokens_per_second", "Whitespace-separated tokens in the answer per second of elapsed time."),
    _reading(
        "token_count",
        "Number of whitespace-separated tokens in the answer, thinking included.",
        one(attrgetter("figures.words")),
    ),
    _figure("elapsed_seconds", "Wall-clock duration of the LangChain call, excluding model load."),
    _figure("decode_tokens_per_second", "Token generation rate as reported by Ollama: eval_count / eval_duration."),
    _figure("output_tokens", "Number of generated tokens as reported by Ollama: eval_count."),
    _figure("time_to_first_token_seconds", "Time from sending the request to the first chunk of text or thinking."),
    _reading(
        "stage_seconds",
        "Time that Ollama spent in each stage of the request: queue, load, prefill and decode.",
        by("stage", _stages),
    ),
    _of_reading("model_load_seconds", "Duration of the model load before the probe, if the model was not loaded."),
    _figure(
        "truncated",
        "Whether the answer ended without Ollama's final chunk; if so, the client measured the rates.",
    ),
    _reading(
        "contended",
        "Whether other work competed with the probe: in Ollama's queue, by another model or by another GPU process.",
        by("by", lambda reading: reading.contended),
    ),
    _figure("distinct_chunks_ratio", "Ratio of distinct to all chunk texts, near 0 if the model repeats itself."),
    _of_reading("model_gpu_ratio", "Share of the model on a GPU as reported by Ollama: size_vram / size."),
    _gpu("power_watts", "Mean power draw during generation, summed over the GPUs that ran the model."),
    _gpu("energy_joules", "Energy used during generation, summed over the GPUs that ran the model."),
    _gpu("clock_hertz", "Mean SM clock during generation, the lowest of the GPUs that ran the model."),
    _gpu("clock_max_hertz", "Maximum SM clock, the lowest of the GPUs that ran the model."),
    _gpu("temperature_celsius", "Maximum temperature during generation, the highest of the GPUs that ran the model."),
    _gpu("utilization_ratio", "Mean utilization during generation, averaged over the GPUs that ran the model."),
    _reading(
        "gpu_throttled_ratio",
        "Share of the generation time during which a GPU that ran the model was throttled, by reason.",
        by("reason", lambda reading: reading.gpu.state.throttled_ratio if reading.gpu.state else {}),
    ),
    _of_reading("tokens_per_joule", "Generated tokens per joule of energy used by the GPUs that ran the model."),
    _of_reading(
        "bandwidth_utilization_ratio",
        "Estimated share of the GPU's peak memory bandwidth used during generation, for dense models.",
    ),
)

STATUS: tuple[Family[ModelState], ...] = (
    _status("success", "gauge", "Whether the last finished probe succeeded."),
    _status(
        "last_run_timestamp_seconds",
        "gauge",
        "Unix time at which the last probe finished or was skipped.",
        one(attrgetter("last_run")),
    ),
    _status(
        "last_success_timestamp_seconds",
        "gauge",
        "Unix time at which the last successful probe finished.",
        one(attrgetter("last_success")),
    ),
    _configured("interval_seconds", "Configured time between probes."),
    _configured("timeout_seconds", "Configured probe timeout, excluding model load."),
    _configured("expected_decode_tokens_per_second", "Configured expected token generation rate."),
    _configured("cpu_intended", "Whether the model is configured to run on the CPU."),
    _status("runs_total", "counter", "Total number of ended probes: successes + failures + cancelled."),
    _status("successes_total", "counter", "Total number of successful probes, truncated ones included."),
    _status(
        "failures_total",
        "counter",
        "Total number of failed probes, by reason.",
        by("reason", lambda state: state.failures),
    ),
    _status("cancelled_total", "counter", "Total number of probes cancelled by a shutdown or a reload."),
    _status(
        "skipped_total",
        "counter",
        "Total number of scheduled probes that were skipped, by reason.",
        by("reason", lambda state: state.skipped),
    ),
    _status("generated_tokens_total", "counter", "Total number of tokens generated by successful, untruncated probes."),
    _status("decode_seconds_total", "counter", "Total time that successful, untruncated probes spent generating."),
    _status(
        "gpu_consumed_joules_total",
        "counter",
        "Total energy used during the generation of successful, untruncated probes by the GPUs that ran the model.",
    ),
    _status(
        "run_duration_seconds",
        "histogram",
        "Duration of finished probes, model load included.",
        Points(("le",), _durations),
    ),
    _status(
        "model_info",
        "info",
        "Model details reported by Ollama, as of the last successful probe.",
        info(lambda state: [state.last_reading.model_info] if state.last_reading else [], *MODEL_LABELS),
    ),
    _status(
        "workload_info",
        "info",
        "Hash of the configured workload; only rates with the same hash are comparable.",
        info(lambda state: [{"hash": state.plan.workload.hash}], "hash"),
    ),
    _status(
        "model_gpu_info",
        "info",
        "UUIDs of the GPUs that ran the model in the last successful probe.",
        info(_cards_of_model, "uuid"),
    ),
)

SERVERS: tuple[Family[str | None], ...] = (
    Family(
        PREFIX + "up",
        "gauge",
        ("target",),
        "Whether Ollama's /api/version answered the last request.",
        one(lambda version: version is not None),
    ),
    Family(
        PREFIX + "server_info",
        "info",
        ("target",),
        "Version of the Ollama server as of the last request to /api/version.",
        info(lambda version: [] if version is None else [{"version": version}], "version"),
    ),
)

DISCOVERIES: tuple[Family[DiscoveryState], ...] = (
    Family(
        PREFIX + "discovery_success",
        "gauge",
        ("target",),
        "Whether the last list of models could be read, for targets whose models are discovered.",
        one(lambda discovery: discovery.success),
    ),
    Family(
        PREFIX + "discovery_ignored_models",
        "gauge",
        ("target",),
        "Number of models that are not probed because the target has more than max_models.",
        one(lambda discovery: discovery.ignored_models),
    ),
)

CARDS: tuple[Family[Card], ...] = (
    Family(
        PREFIX + "gpu_info",
        "info",
        (),
        "GPU of this machine that the exporter can read.",
        info(lambda card: [_card(card)], *CARD_LABELS),
    ),
)

PROGRAM: tuple[Family[None], ...] = (
    Family(
        PREFIX + "build_info",
        "info",
        (),
        "Version of ollama-throughput-exporter and of the Python interpreter that runs it.",
        info(lambda _: [{"version": __version__, "python": platform.python_version()}], "version", "python"),
    ),
)

CONFIG: tuple[Family[ConfigState], ...] = (
    Family(
        PREFIX + "config_last_reload_successful",
        "gauge",
        (),
        "Whether the last attempt to load the configuration was successful.",
        one(lambda config: config.successful),
    ),
    Family(
        PREFIX + "config_last_reload_success_timestamp_seconds",
        "gauge",
        (),
        "Unix time of the last successful loading of the configuration.",
        one(lambda config: config.succeeded_at),
    ),
)

COLLECTORS: tuple[Family[int], ...] = (
    Family(
        PREFIX + "collector_failures_total",
        "counter",
        ("collector",),
        "Total number of scrapes without the metrics of a runtime collector, because it failed.",
        one(lambda failures: failures),
    ),
)

PROCESS: tuple[Family[ProcessCounters], ...] = (
    Family(
        PREFIX + "log_messages_dropped_total",
        "counter",
        (),
        "Total number of log messages that were dropped because standard error was blocked, closed or full.",
        one(attrgetter("log_messages_dropped")),
    ),
    Family(
        PREFIX + "http_connections_rejected_total",
        "counter",
        (),
        "Total number of HTTP connections that were closed or refused because web.max_connections was reached.",
        one(attrgetter("http_connections_rejected")),
    ),
)

FAMILIES: tuple[Family[Any], ...] = (
    *READINGS,
    *STATUS,
    *SERVERS,
    *DISCOVERIES,
    *CARDS,
    *PROGRAM,
    *CONFIG,
    *PROCESS,
    *COLLECTORS,
)


class Row(NamedTuple):
    """A metric as the documentation lists it."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


def metrics_table() -> list[Row]:
    """Return every metric of this program, in the order of the exposition."""
    return [Row(family.name, family.kind, (*family.labels, *family.points.labels), family.help) for family in FAMILIES]
