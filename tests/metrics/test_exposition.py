"""The expositions as others read them: golden files, parsers, promtool, unusual names, filters."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import replace

import pytest
from golden.write import FILES, HERE, expositions, record_all
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from support.programs import Release
from support.readings import FULL, PLAN
from support.scraping import Scraped, parse

from exporter.metrics.collector import ProbeCollector
from exporter.metrics.exposition import CachedMetric, Format, render
from exporter.metrics.families import metrics_table
from exporter.plan import ModelKey
from exporter.state.store import StateStore

UNUSUAL_NAMES = [
    'quo"te',
    "new\nline",
    "carriage\rreturn",
    "back\\slash\\n",
    '{brace="s"} 1.0 # {a="b"}',
    "Ollama 大きい模型 🦙",
    "line\u2028separator\x85next",
    "x" * 200,
    " spaces ",
]


@pytest.fixture
def registry() -> CollectorRegistry:
    """Return a registry with a model in every state."""
    scraped = Scraped()
    record_all(scraped.store)
    return scraped.registry


@pytest.mark.parametrize("format_", Format)
def test_golden(format_: Format) -> None:
    """The exposition is the golden file, which `PYTHONPATH=tests python -m golden.write` writes."""
    assert expositions()[format_] == (HERE / FILES[format_]).read_text(encoding="utf-8")


@pytest.mark.parametrize("format_", Format)
def test_golden_is_parsed_back(format_: Format) -> None:
    """prometheus_client's parsers read exactly the families of the metrics table, with their types and labels."""
    found = parse(format_, (HERE / FILES[format_]).read_text(encoding="utf-8"))

    table = {row.name: row for row in metrics_table()}
    families = {}
    for metric in found:
        suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
        families[metric.name + suffix] = metric
        row = table[metric.name + suffix]
        assert metric.documentation == row.help
        # The text format has no info type.
        assert metric.type == ("gauge" if format_ is Format.TEXT and row.type == "info" else row.type)
        for sample in metric.samples:
            assert set(sample.labels) == set(row.labels) - ({"le"} if not sample.name.endswith("_bucket") else set())
    assert set(families) == set(table) - {"ollama_probe_collector_failures_total"}


@pytest.mark.parametrize("format_", Format)
def test_cached_lines_equal_the_collector_protocol(registry: CollectorRegistry, format_: Format) -> None:
    """prometheus_client's encoders, fed by collect(), and the cached lines parse to the same families and samples."""
    library = generate_latest if format_ is Format.TEXT else openmetrics_exposition.generate_latest
    theirs, ours = library(registry).decode(), render(registry, format_).decode()

    assert parse(format_, theirs) == parse(format_, ours)
    assert len(parse(format_, ours)) > 40


def lint(promtool: Iterable[str], text: bytes) -> list[str]:
    """Return what `promtool check metrics` reports."""
    done = subprocess.run([*promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
    return (done.stdout + done.stderr).decode().splitlines()


def test_promtool_reports_token_count_only(release: Release) -> None:
    """`token_count` is part of the contract; promtool finds nothing else to report, runtime metrics included."""
    registry, store = CollectorRegistry(), StateStore()
    ProbeCollector(store, registry)
    record_all(store)

    reported = lint([str(release.promtool)], render(registry, Format.TEXT))

    assert [line.split()[0] for line in reported] == ["ollama_probe_token_count"], reported


@pytest.mark.parametrize("format_", Format)
def test_unusual_names_survive(format_: Format) -> None:
    """Names with quotes, newlines, braces, non-ASCII or 300 characters are parsed back unchanged."""
    scraped = Scraped()
    for name in UNUSUAL_NAMES:
        key = ModelKey(name, name)
        gpu, installed = replace(FULL.gpu, label=name, uuids=(name,)), replace(FULL.installed, name=name)
        scraped.store.add_model(key, PLAN)
        scraped.store.probe_succeeded(key, replace(FULL, gpu=gpu, installed=installed), 1.0)
        scraped.store.server_checked(name, name)

    values: dict[str, set[str]] = {}
    for metric in parse(format_, scraped.text(format_)):
        for sample in metric.samples:
            for label, value in sample.labels.items():
                values.setdefault(label, set()).add(value)
    for label in ("target", "model", "gpu", "uuid", "model_name"):
        assert values[label] == set(UNUSUAL_NAMES)
    assert values["version"] >= set(UNUSUAL_NAMES)


def test_promtool_accepts_unusual_names(release: Release) -> None:
    """Promtool reads them too."""
    scraped = Scraped()
    for name in UNUSUAL_NAMES:
        scraped.store.add_model(ModelKey(name, name), PLAN)

    assert lint([str(release.promtool)], scraped.text().encode()) == []


@pytest.mark.parametrize("format_", Format)
def test_what_a_server_says_is_shortened(format_: Format) -> None:
    """No label value from elsewhere than the configuration has more than 200 characters or a lone surrogate."""
    scraped = Scraped()
    long = "\ud800" + "é" * 7_000_000
    installed = replace(FULL.installed, name=long, digest=long, family=long, parameter_size=long, quantization=long)
    scraped.store.add_model(ModelKey("t" * 250, "m" * 250), PLAN)
    gpu = replace(FULL.gpu, label=long, uuids=(long,))
    scraped.store.probe_succeeded(ModelKey("t" * 250, "m" * 250), replace(FULL, installed=installed, gpu=gpu), 1.0)
    scraped.store.server_checked("t" * 250, long)

    for metric in [*parse(format_, scraped.text(format_)), *scraped.registry.collect()]:
        for sample in metric.samples:
            for label, value in sample.labels.items():
                value.encode()
                assert len(value) == 250 if label in {"target", "model"} else len(value) <= 200, (label, value[:20])
                assert not value.startswith("?") or value == "?" + "é" * 198 + "…"


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text(st.characters(categories=("Cs", "Cc", "Po"))))
def test_any_name_can_be_exposed(target: str, model: str) -> None:
    """No text breaks a format. What has no UTF-8 encoding (a lone surrogate, which JSON can carry) is replaced."""
    scraped = Scraped()
    scraped.store.add_model(ModelKey(target, model), PLAN)

    for format_ in Format:
        [family] = [found for found in parse(format_, scraped.text(format_)) if found.name == "ollama_probe_runs"]
        [sample] = family.samples
        assert sample.labels == {
            "target": target.encode(errors="replace").decode(),
            "model": model.encode(errors="replace").decode(),
        }
    generate_latest(scraped.registry)


@pytest.mark.parametrize(
    "names",
    [
        {"ollama_probe_up"},
        {"ollama_probe_run_duration_seconds_bucket", "ollama_probe_runs_total"},
        {"ollama_probe_model_info", "ollama_probe_nothing"},
    ],
)
@pytest.mark.parametrize("format_", Format)
def test_name_filter(registry: CollectorRegistry, format_: Format, names: set[str]) -> None:
    """`name[]` leaves exactly the samples with these names, as prometheus_client's restricted registry does."""
    library = generate_latest if format_ is Format.TEXT else openmetrics_exposition.generate_latest
    theirs = library(registry.restricted_registry(names)).decode()

    # Only samples are compared, because a restricted registry loses units.
    samples = [metric.samples for metric in parse(format_, render(registry, format_, frozenset(names)).decode())]
    assert samples == [metric.samples for metric in parse(format_, theirs)]
    assert {sample.name for of_one in samples for sample in of_one} == names - {"ollama_probe_nothing"}


@pytest.mark.parametrize("format_", Format)
def test_a_name_filter_renders_only_what_is_asked(
    registry: CollectorRegistry, format_: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Families without a sample of these names are not joined, so that a short answer is cheap on a long page."""
    joined = []
    parts = CachedMetric.parts

    def record(metric: CachedMetric, format_: Format) -> list[bytes]:
        joined.append(metric.name)
        return parts(metric, format_)

    monkeypatch.setattr(CachedMetric, "parts", record)
    names = {"ollama_probe_up", "ollama_probe_run_duration_seconds_sum", "ollama_probe_runs_total"}
    render(registry, format_, frozenset(names))

    assert sorted(joined) == ["ollama_probe_run_duration_seconds", "ollama_probe_runs", "ollama_probe_up"]


def test_name_filter_that_matches_nothing(registry: CollectorRegistry) -> None:
    """An unknown name gives an empty exposition, which is still valid."""
    assert render(registry, Format.TEXT, frozenset({"nothing"})) == b""
    assert render(registry, Format.OPENMETRICS, frozenset({"nothing", "\ud800"})) == b"# EOF\n"
