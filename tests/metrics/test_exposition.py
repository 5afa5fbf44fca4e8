"""The expositions as others read them: golden files, parsers, promtool, hostile names, broken collectors."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from golden.write import FILES, HERE, expositions, tell_all
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.programs import Release
from support.readings import FULL, PLAN

from exporter.metrics.exposition import Format, render
from exporter.metrics.families import ProbeMetrics, metrics_table
from exporter.plan import ModelKey

EVIL_NAMES = [
    'quo"te',
    "new\nline",
    "carriage\rreturn",
    "back\\slash\\n",
    '{brace="s"} 1.0 # {a="b"}',
    "Ollama 大きい模型 🦙",
    "line\u2028separator\x85next",
    "x" * 300,
    " spaces ",
]


def parse(format_: Format, text: str) -> list[Metric]:
    """Parse by prometheus_client's parser of the format, into comparable metrics sorted by name."""
    parser = parse_text if format_ is Format.TEXT else parse_openmetrics
    return sorted(parser(text), key=lambda metric: metric.name)


def new(*, full: bool = True) -> tuple[CollectorRegistry, ProbeMetrics]:
    """Return a registry and its metrics without prometheus_client's own collectors, told all or nothing."""
    registry = CollectorRegistry()
    metrics = ProbeMetrics(registry, clock=lambda: 0.0, monotonic=lambda: 0.0, collectors=())
    if full:
        tell_all(metrics)
    return registry, metrics


@pytest.mark.parametrize("format_", Format)
def test_golden(format_: Format) -> None:
    """The exposition of the scene is the golden file (`PYTHONPATH=tests python -m golden.write` writes it anew)."""
    assert expositions()[format_] == (HERE / FILES[format_]).read_text(encoding="utf-8")


@pytest.mark.parametrize("format_", Format)
def test_golden_is_parsed_back(format_: Format) -> None:
    """prometheus_client's own parsers read every family of the contract, and no other, with its type and labels."""
    found = parse(format_, (HERE / FILES[format_]).read_text(encoding="utf-8"))

    table = {row.name: row for row in metrics_table()}
    families = {}
    for metric in found:
        suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
        families[metric.name + suffix] = metric
        row = table[metric.name + suffix]
        assert metric.documentation == row.help
        # The text format has no infos: they are gauges there.
        assert metric.type == ("gauge" if format_ is Format.TEXT and row.type == "info" else row.type)
        for sample in metric.samples:
            assert set(sample.labels) == set(row.labels) - ({"le"} if not sample.name.endswith("_bucket") else set())
    assert set(families) == set(table) - {"ollama_probe_collector_failures_total"}


@pytest.mark.parametrize("format_", Format)
def test_collector_protocol_tells_the_same(format_: Format) -> None:
    """prometheus_client's encoders, fed by collect(), and the cached lines parse to the same families and samples."""
    registry, _ = new()

    library = generate_latest if format_ is Format.TEXT else openmetrics_exposition.generate_latest
    theirs, ours = library(registry).decode(), render(registry, format_).decode()

    assert parse(format_, theirs) == parse(format_, ours)
    assert len(parse(format_, ours)) > 40


def test_describe_names_every_family() -> None:
    """Registering does not collect, and no second collector can take one of the names."""
    registry, metrics = new()

    assert [metric.samples for metric in metrics.describe()] == [[]] * len(metrics_table())
    with pytest.raises(ValueError, match="Duplicated"):
        ProbeMetrics(registry)


def lint(promtool: Iterable[str], text: bytes) -> list[str]:
    """Return the complaints of `promtool check metrics`."""
    done = subprocess.run([*promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
    return (done.stdout + done.stderr).decode().splitlines()


def test_promtool_complains_of_token_count_alone(release: Release) -> None:
    """`token_count` is the product's own contract; promtool finds nothing else in the scene and in a live scrape."""
    registry = CollectorRegistry()
    tell_all(ProbeMetrics(registry))

    complaints = lint([str(release.promtool)], render(registry, Format.TEXT))

    assert [line.split()[0] for line in complaints] == ["ollama_probe_token_count"], complaints


@pytest.mark.parametrize("format_", Format)
def test_hostile_names_survive(format_: Format) -> None:
    """Names with quotes, newlines, braces, non-ASCII or 300 characters are parsed back as they were."""
    registry, metrics = new(full=False)
    for name in EVIL_NAMES:
        metrics.add_pair(ModelKey(name, name), PLAN)
        model = replace(FULL.model, model_name=name)
        metrics.succeeded(ModelKey(name, name), replace(FULL, gpu=name, uuids=(name,), model=model), 1.0)
        metrics.server_answered(name, name)

    text = render(registry, format_).decode()

    values: dict[str, set[str]] = {}
    for metric in parse(format_, text):
        for sample in metric.samples:
            for label, value in sample.labels.items():
                values.setdefault(label, set()).add(value)
    for label in ("target", "model", "gpu", "uuid", "model_name"):
        assert values[label] == set(EVIL_NAMES)
    assert values["version"] >= set(EVIL_NAMES)


def test_promtool_takes_hostile_names(release: Release) -> None:
    """Promtool reads hostile names too."""
    registry, metrics = new(full=False)
    for name in EVIL_NAMES:
        metrics.add_pair(ModelKey(name, name), PLAN)

    assert lint([str(release.promtool)], render(registry, Format.TEXT)) == []


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text(st.characters(categories=("Cs", "Cc", "Po"))))
def test_any_name_can_be_told(target: str, model: str) -> None:
    """No text breaks a format; what has no UTF-8 (a lone surrogate, which JSON can carry) is replaced."""
    registry, metrics = new(full=False)
    metrics.add_pair(ModelKey(target, model), PLAN)

    for format_ in Format:
        [family] = [m for m in parse(format_, render(registry, format_).decode()) if m.name == "ollama_probe_runs"]
        [sample] = family.samples
        assert sample.labels == {
            "target": target.encode(errors="replace").decode(),
            "model": model.encode(errors="replace").decode(),
        }
    generate_latest(registry)


@pytest.mark.parametrize(
    "names",
    [
        {"ollama_probe_up"},
        {"ollama_probe_run_duration_seconds_bucket", "ollama_probe_runs_total"},
        {"ollama_probe_model_info", "ollama_probe_nothing"},
    ],
)
@pytest.mark.parametrize("format_", Format)
def test_name_filter(format_: Format, names: set[str]) -> None:
    """`name[]` leaves exactly the samples so named, as prometheus_client's restricted registry does."""
    registry, _ = new()

    library = generate_latest if format_ is Format.TEXT else openmetrics_exposition.generate_latest
    theirs = library(registry.restricted_registry(names)).decode()

    # The library forgets a family's unit when it restricts.
    samples = [metric.samples for metric in parse(format_, render(registry, format_, frozenset(names)).decode())]
    assert samples == [metric.samples for metric in parse(format_, theirs)]
    assert {sample.name for of_one in samples for sample in of_one} == names - {"ollama_probe_nothing"}


def test_name_filter_that_matches_nothing() -> None:
    """An unknown name gives an empty exposition, still a valid one."""
    registry, _ = new()

    assert render(registry, Format.TEXT, frozenset({"nothing"})) == b""
    assert render(registry, Format.OPENMETRICS, frozenset({"nothing", "\ud800"})) == b"# EOF\n"


class Moody:
    """A collector that fails when told to."""

    fails = True

    def collect(self) -> Iterable[Metric]:
        """Yield one family; then fail, or not."""
        yield GaugeMetricFamily("moody", "A mood.", value=1)
        if self.fails:
            raise OSError("no such file: /proc/self/stat")


def test_broken_collector_costs_its_own_series(caplog: pytest.LogCaptureFixture) -> None:
    """The scrape goes on without its series; each failure is counted, each outage logged once, and it may recover."""
    registry, moody = CollectorRegistry(), Moody()
    metrics = ProbeMetrics(registry, collectors=(moody,))
    metrics.add_pair(ModelKey("gpu-a", "llama3.1"), PLAN)
    counter = ("ollama_probe_collector_failures_total", {"collector": "Moody"})
    assert registry.get_sample_value(*counter) == 0.0

    with caplog.at_level(logging.ERROR):
        broken = [render(registry, Format.TEXT) for _ in range(3)]

    assert all(b"moody" not in text and b"ollama_probe_runs_total" in text for text in broken)
    [record] = caplog.records
    assert record.exc_info is not None
    moody.fails = False
    assert b"moody 1.0" in render(registry, Format.TEXT)
    assert registry.get_sample_value(*counter) == 3.0


@pytest.fixture
def switching() -> Iterator[None]:
    """Make threads take turns a hundred times as often."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 100)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("format_", Format)
def test_scrape_never_mixes_two_runs(format_: Format) -> None:
    """A scrape from another thread, while readings arrive, shows values of one run only, and the whole of it."""
    registry, metrics = new(full=False)
    pair = ModelKey("gpu-a", "llama3.1")
    metrics.add_pair(pair, PLAN)
    stop = threading.Event()
    seen: list[list[float]] = []
    words = ("ollama_probe_token_count", "ollama_probe_elapsed_seconds", "ollama_probe_output_tokens")

    def scrape() -> None:
        while not stop.is_set():
            lines = render(registry, format_).decode().splitlines()
            values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(words)]
            seen.append(values)

    thread = threading.Thread(target=scrape)
    thread.start()
    run = 0
    while len({tuple(values) for values in seen}) < 10 and thread.is_alive():
        run += 1
        metrics.succeeded(pair, replace(FULL, words=run, elapsed_seconds=run, output_tokens=run), 1.0)
        metrics.add_pair(ModelKey("gpu-b", f"model {run % 50}"), PLAN)
        metrics.remove_pair(ModelKey("gpu-b", f"model {(run - 25) % 50}"))
    stop.set()
    thread.join()

    assert all(len(values) == len(words) and len(set(values)) == 1 for values in seen if values)
