"""What a scrape shows while the state changes, from several threads too."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis.stateful import invariant
from prometheus_client import CollectorRegistry
from support.readings import CARD, FULL, PLAN, WORKLOAD, failure
from support.scraping import Scraped, parse
from support.store_events import StoreEvents

from exporter.errors import Reason, SkipReason
from exporter.metrics.collector import ProbeCollector
from exporter.metrics.exposition import Block, CachedMetric, Format, render
from exporter.metrics.families import READINGS, metrics_table
from exporter.plan import ModelKey
from exporter.reading import Reading

A = ModelKey("gpu-a", "llama3.1")
B = ModelKey("gpu-b", "llama3.1")
AGE_LIMIT = 2 * PLAN.interval_seconds + PLAN.timeout_seconds


@pytest.fixture
def scraped() -> Scraped:
    """Return a store with a model that has not been probed, and its exposition."""
    scraped = Scraped()
    scraped.store.add_model(A, PLAN)
    return scraped


def test_a_failure_withdraws_all_readings_until_the_next_success(scraped: Scraped) -> None:
    """Readings of a server that no longer responds are not exposed. Its status and the data about its model remain."""
    scraped.store.probe_succeeded(A, FULL, 6.5)
    scraped.store.probe_failed(A, failure(Reason.CONNECT), 0.25)

    assert scraped.reading_names() == set()
    assert scraped.value("success", A) == 0.0
    assert scraped.value("failures_total", A, reason="connect") == 1.0
    assert scraped.values("model_info") == [1.0]

    scraped.store.probe_succeeded(A, FULL, 6.5)
    assert scraped.reading_names() == {family.name for family in READINGS}


def test_age_withdraws_all_readings(scraped: Scraped) -> None:
    """Time alone changes what is exposed: nothing else has to happen."""
    scraped.store.probe_succeeded(A, FULL, 6.5)
    scraped.monotonic += AGE_LIMIT
    assert scraped.reading_names()
    scraped.monotonic += 0.001
    assert scraped.reading_names() == set()
    assert scraped.value("success", A) == 1.0


def test_skipped_and_cancelled_probes_keep_the_reading(scraped: Scraped) -> None:
    """They have no result."""
    scraped.store.probe_succeeded(A, FULL, 6.5)
    scraped.store.probe_skipped(A, SkipReason.LATE, 3)
    scraped.store.probe_cancelled(A)

    assert scraped.reading_names()
    assert scraped.value("skipped_total", A, reason="late") == 3.0
    assert scraped.value("cancelled_total", A) == 1.0


def test_a_new_plan_is_exposed_with_the_old_counters(scraped: Scraped) -> None:
    """Another workload withdraws the reading, so that it never appears under the hash of another."""
    scraped.store.probe_succeeded(A, FULL, 6.5)
    scraped.store.add_model(A, replace(PLAN, interval_seconds=60.0, expected_decode_tokens_per_second=None))
    assert scraped.value("interval_seconds", A) == 60.0
    assert scraped.value("expected_decode_tokens_per_second", A) is None
    assert scraped.reading_names()

    other = replace(WORKLOAD, num_predict=64)
    scraped.store.add_model(A, replace(PLAN, workload=other))
    assert scraped.reading_names() == set()
    assert scraped.value("workload_info", A, hash=other.hash) == 1.0
    assert scraped.value("workload_info", A, hash=WORKLOAD.hash) is None
    assert scraped.value("successes_total", A) == 1.0


def test_a_changed_gpu_leaves_no_series_behind(scraped: Scraped) -> None:
    """When a model falls to the CPU, its readings appear under the new label only."""
    scraped.store.probe_succeeded(A, FULL, 6.5)
    assert scraped.reading_names()
    scraped.store.probe_succeeded(A, replace(FULL, gpu=replace(FULL.gpu, label="cpu")), 6.5)

    rate = FULL.figures.decode_tokens_per_second
    assert scraped.values("decode_tokens_per_second") == [rate]
    assert scraped.value("decode_tokens_per_second", A, gpu="cpu") == rate


def test_a_removed_model_leaves_no_series_behind(scraped: Scraped) -> None:
    """Lines that were rendered for it go too, and start at 0 when it comes back."""
    scraped.store.add_model(B, PLAN)
    for key in (A, B):
        scraped.store.probe_succeeded(key, FULL, 6.5)
    assert 'target="gpu-a"' in scraped.text()
    scraped.store.remove_model(A)

    assert 'target="gpu-a"' not in scraped.text()
    assert scraped.value("runs_total", B) == 1.0
    scraped.store.add_model(A, PLAN)
    assert scraped.value("runs_total", A) == 0.0


def test_server_up_and_down(scraped: Scraped) -> None:
    """`up` follows the last check, the version is exposed while it is known, and both leave with the target."""
    assert scraped.values("up") == []
    for version, up, known in (("0.13.0", 1.0, ["0.13.0"]), (None, 0.0, []), ("0.14.0", 1.0, ["0.14.0"])):
        scraped.store.server_checked("gpu-a", version)
        assert scraped.values("up") == [up]
        found = [metric for metric in scraped.registry.collect() if metric.name == "ollama_probe_server"]
        assert [sample.labels["version"] for metric in found for sample in metric.samples] == known

    scraped.store.server_checked("gpu-b", None)
    scraped.store.remove_target("gpu-a")
    assert scraped.values("up") == [0.0]


def test_cards_are_those_that_were_set_last(scraped: Scraped) -> None:
    """Each GPU of this machine has one series."""
    scraped.collector.set_cards((CARD, replace(CARD, uuid="GPU-2", index=1)))
    assert scraped.values("gpu_info") == [1.0, 1.0]
    scraped.collector.set_cards((CARD,))

    labels = {"gpu": CARD.name, "index": "0", "uuid": CARD.uuid, "vendor": "NVIDIA"}
    labels |= {"pci_bus_id": CARD.pci_bus_id, "driver_version": CARD.driver_version}
    assert scraped.registry.get_sample_value("ollama_probe_gpu_info", labels) == 1.0
    assert scraped.values("gpu_info") == [1.0]


def test_describe_returns_every_family_without_samples() -> None:
    """Registering does not collect, and no second collector can take one of the names."""
    scraped = Scraped()

    assert [metric.samples for metric in scraped.collector.describe()] == [[]] * len(metrics_table())
    with pytest.raises(ValueError, match="Duplicated"):
        ProbeCollector(scraped.store, scraped.registry)


def lines_of(scraped: Scraped) -> list[bytes]:
    """Return the lines of one scrape, each family's of each source as one object."""
    metrics = scraped.collector.collect()
    return [
        part for metric in metrics if isinstance(metric, CachedMetric) for part in metric.parts(Format.TEXT) if part
    ]


def test_lines_are_rendered_once_per_change(scraped: Scraped) -> None:
    """Scrapes without a change return the same objects, and a change renders only what changed."""
    scraped.store.add_model(B, PLAN)
    scraped.store.server_checked("gpu-a", "0.13.0")
    for key in (A, B):
        scraped.store.probe_succeeded(key, FULL, 6.5)
    first = lines_of(scraped)
    kept = {id(part) for part in first}

    assert {id(part) for part in lines_of(scraped)} == kept
    scraped.store.probe_skipped(A, SkipReason.LATE)
    scraped.store.server_checked("gpu-b", None)
    changed = b"".join(part for part in lines_of(scraped) if id(part) not in kept)
    assert b'skipped_total{target="gpu-a"' in changed
    assert b'up{target="gpu-b"} 0.0' in changed
    for unchanged in (b'target="gpu-b",model=', b'gpu="', b'up{target="gpu-a"}'):
        assert unchanged not in changed


def test_lines_of_removed_models_are_freed(scraped: Scraped) -> None:
    """Models that come and go do not fill the memory."""

    def cached() -> list[object]:
        return [each.source for each in gc.get_objects() if isinstance(each, Block) and each.source is state]

    [state] = scraped.store.models()
    scraped.text()
    assert cached()
    scraped.store.remove_model(A)
    scraped.text()
    assert not cached()


@pytest.fixture
def switching() -> Iterator[None]:
    """Make threads switch a hundred times as often."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 100)
    yield
    sys.setswitchinterval(usual)


def reading_of(run: int) -> Reading:
    """Return a reading whose words, seconds and tokens are all `run`."""
    return replace(FULL, figures=replace(FULL.figures, words=run, elapsed_seconds=run, output_tokens=run))


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("format_", Format)
def test_scrapes_of_two_threads_never_mix_two_probes(format_: Format) -> None:
    """While readings arrive and models come and go, each scrape shows all values of exactly one probe."""
    scraped = Scraped()
    scraped.store.add_model(A, PLAN)
    names = tuple(f"ollama_probe_{name}" for name in ("token_count", "elapsed_seconds", "output_tokens"))
    stop = threading.Event()
    seen: list[list[float]] = []

    def scrape() -> None:
        while not stop.is_set():
            lines = scraped.text(format_).splitlines()
            values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(names)]
            successes = [line.rpartition(" ")[2] for line in lines if line.startswith("ollama_probe_successes_total")]
            seen.append([*values, float(successes[0])] if values else [])

    with ThreadPoolExecutor(2) as threads:
        scrapes = [threads.submit(scrape) for _ in range(2)]
        run = 0
        while len({tuple(values) for values in seen}) < 20 and not any(one.done() for one in scrapes):
            run += 1
            scraped.store.probe_succeeded(A, reading_of(run), 1.0)
            scraped.store.add_model(ModelKey("gpu-b", f"model {run % 50}"), PLAN)
            scraped.store.remove_model(ModelKey("gpu-b", f"model {(run - 25) % 50}"))
        stop.set()
        for one in scrapes:
            one.result()

    shown = [values for values in seen if values]
    assert shown
    assert all(len(values) == len(names) + 1 and len(set(values)) == 1 for values in shown)


class AnyOrder(StoreEvents):
    """After any order of events, cached lines are those that a new collector would render."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = CollectorRegistry()
        ProbeCollector(self.store, self.registry, collectors=())

    @invariant()
    def shows_what_a_new_collector_shows(self) -> None:
        """No line is stale, missing or left behind."""
        new = CollectorRegistry()
        ProbeCollector(self.store, new, collectors=())
        assert render(self.registry, Format.TEXT) == render(new, Format.TEXT)

    def teardown(self) -> None:
        """Both formats are parsed, and runs are the sum of successes, failures and cancelled."""
        for format_ in Format:
            metrics = parse(format_, render(self.registry, format_).decode())
            sums = {metric.name: sum(sample.value for sample in metric.samples) for metric in metrics}
            ends = [sums.get(f"ollama_probe_{name}", 0.0) for name in ("successes", "failures", "cancelled")]
            assert sum(ends) == sums.get("ollama_probe_runs", 0.0) == sum(self.runs.values())


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
