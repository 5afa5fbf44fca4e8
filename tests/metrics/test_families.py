"""Which metric has which value, label and description."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.readings import FULL, PLAN, TRUNCATED, WORKLOAD, failure
from support.scraping import Scraped

from exporter.errors import Reason, SkipReason
from exporter.metrics.families import READINGS, STATUS, metrics_table
from exporter.plan import ModelKey
from exporter.state.histogram import BUCKETS_SECONDS
from exporter.state.store import DiscoveryState

KEY = ModelKey("gpu-a", "llama3.1")


@pytest.fixture
def scraped() -> Scraped:
    """Return an empty store with a model that has not been probed, and its exposition."""
    scraped = Scraped()
    scraped.store.add_model(KEY, PLAN)
    return scraped


def test_before_the_first_probe(scraped: Scraped) -> None:
    """Every counter is 0 for every reason; what only a probe can know is absent; the configuration is exposed."""
    assert scraped.reading_names() == set()
    unknown = ("success", "last_run_timestamp_seconds", "last_success_timestamp_seconds", "model_info")
    for name in (*unknown, "gpu_consumed_joules_total", "discovery_success", "discovery_ignored_models"):
        assert scraped.values(name) == []
    for name in ("runs", "successes", "cancelled", "generated_tokens", "decode_seconds"):
        assert scraped.value(f"{name}_total", KEY) == 0.0
    assert [scraped.value("failures_total", KEY, reason=reason) for reason in Reason] == [0.0] * len(Reason)
    assert [scraped.value("skipped_total", KEY, reason=reason) for reason in SkipReason] == [0.0] * len(SkipReason)
    assert scraped.value("run_duration_seconds_count", KEY) == 0.0
    assert scraped.value("interval_seconds", KEY) == 900.0
    assert scraped.value("timeout_seconds", KEY) == 120.0
    assert scraped.value("expected_decode_tokens_per_second", KEY) == 100.0
    assert scraped.value("cpu_intended", KEY) == 0.0
    assert scraped.value("workload_info", KEY, hash=WORKLOAD.hash) == 1.0


def test_cpu_intended_is_exposed_from_the_configuration(scraped: Scraped) -> None:
    """An alert on models that are not on a GPU leaves these out."""
    scraped.store.add_model(KEY, replace(PLAN, cpu_intended=True))

    assert scraped.value("cpu_intended", KEY) == 1.0


def test_discovery_is_exposed_for_targets_whose_models_are_discovered(scraped: Scraped) -> None:
    """The number of ignored models is absent until the list could be read once."""
    labels = {"target": "gpu-a"}
    scraped.store.discovery_checked("gpu-a", DiscoveryState(success=False))
    assert scraped.registry.get_sample_value("ollama_probe_discovery_success", labels) == 0.0
    assert scraped.values("discovery_ignored_models") == []
    scraped.store.discovery_checked("gpu-a", DiscoveryState(success=True, ignored_models=3))
    assert scraped.registry.get_sample_value("ollama_probe_discovery_success", labels) == 1.0
    assert scraped.registry.get_sample_value("ollama_probe_discovery_ignored_models", labels) == 3.0


def test_energy_is_absent_until_a_reading_had_some(scraped: Scraped) -> None:
    """A counter of 0 would mean that the GPU uses no energy."""
    scraped.store.probe_succeeded(KEY, replace(FULL, gpu=replace(FULL.gpu, state=None)), 6.5)
    assert scraped.values("gpu_consumed_joules_total") == []
    scraped.store.probe_succeeded(KEY, FULL, 6.5)
    assert scraped.value("gpu_consumed_joules_total", KEY) == 800.0


def test_a_full_reading_fills_every_family(scraped: Scraped) -> None:
    """Every reading family has samples, with the reading's values."""
    scraped.store.probe_succeeded(KEY, FULL, 6.5)

    assert scraped.reading_names() == {family.name for family in READINGS}
    gpu = FULL.gpu.label
    assert scraped.value("tokens_per_second", KEY, gpu=gpu) == 187 / 2.75
    assert scraped.value("stage_seconds", KEY, gpu=gpu, stage="prefill") == 0.0625
    assert scraped.value("contended", KEY, gpu=gpu, by="gpu") == 1.0
    assert scraped.value("gpu_throttled_ratio", KEY, gpu=gpu, reason="sw_power_cap") == 0.25
    assert scraped.value("tokens_per_joule", KEY, gpu=gpu) == 256 / 800
    assert scraped.value("model_gpu_info", KEY, uuid=FULL.gpu.uuids[0]) == 1.0
    assert scraped.value("generated_tokens_total", KEY) == 256.0
    assert scraped.value("decode_seconds_total", KEY) == 2.5
    assert scraped.value("gpu_consumed_joules_total", KEY) == 800.0
    assert scraped.value("success", KEY) == 1.0
    assert scraped.value("last_run_timestamp_seconds", KEY) == FULL.finished_at
    assert scraped.value("last_success_timestamp_seconds", KEY) == FULL.finished_at


def test_what_a_reading_does_not_know_is_absent(scraped: Scraped) -> None:
    """An unknown value has no sample: never 0, -1 or NaN."""
    reading = replace(TRUNCATED, gpu=replace(FULL.gpu, label="cpu"), figures=replace(TRUNCATED.figures, words=None))
    scraped.store.probe_succeeded(KEY, reading, 120.0)

    assert scraped.value("truncated", KEY, gpu="cpu") == 1.0
    assert scraped.value("success", KEY) == 1.0
    absent = {"output_tokens", "stage_seconds", "tokens_per_joule", "token_count", "tokens_per_second"}
    assert {f"ollama_probe_{name}" for name in absent} & scraped.reading_names() == set()


def test_a_gpu_that_is_named_twice_has_one_series(scraped: Scraped) -> None:
    """Two runners of one model on one GPU do not make a duplicate series."""
    scraped.store.probe_succeeded(KEY, replace(FULL, gpu=replace(FULL.gpu, uuids=("GPU-1", "GPU-1"))), 6.5)

    assert scraped.values("model_gpu_info") == [1.0]


def test_run_durations_are_a_cumulative_histogram(scraped: Scraped) -> None:
    """Each bucket's bound is a label as Prometheus writes it."""
    for seconds in (0.5, 700.0):
        scraped.store.probe_failed(KEY, failure(Reason.TIMEOUT), seconds)

    bounds = [f"{bound:.1f}" for bound in BUCKETS_SECONDS] + ["+Inf"]
    counts = [scraped.value("run_duration_seconds_bucket", KEY, le=bound) for bound in bounds]
    assert counts == [1.0] * len(BUCKETS_SECONDS) + [2.0]
    assert scraped.value("run_duration_seconds_count", KEY) == 2.0
    assert scraped.value("run_duration_seconds_sum", KEY) == 700.5


def test_metrics_table_is_sound() -> None:
    """Names are unique, HELP is one line, readings have the three labels, and no counter has the name of a gauge."""
    table = metrics_table()
    by_kind = {kind: {row.name for row in table if row.type == kind} for kind in ("gauge", "counter")}

    assert len({row.name for row in table}) == len(table) == len(READINGS) + len(STATUS) + 11
    assert all(row.name.startswith("ollama_probe_") for row in table)
    assert all(row.help.endswith(".") and "\n" not in row.help for row in table)
    assert {name.removesuffix("_total") for name in by_kind["counter"]} & by_kind["gauge"] == set()
    assert {row.labels[:3] for row in table[: len(READINGS)]} == {("target", "model", "gpu")}
