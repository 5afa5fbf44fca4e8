"""The sums of deploy/fleet.md, done again from the exposition that the tests hold every metric to."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from exporter.metrics.exposition import Format, render
from exporter.metrics.families import ProbeMetrics
from exporter.settings.schema import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy/fleet.md").read_text()
GOLDEN = (ROOT / "tests/golden/metrics.txt").read_text().splitlines()
BYTES_PER_SAMPLE = 1.5
DAY = 86_400
# Measured on an H100: facts that the document states, not results.
RATE, TOKENS_PER_JOULE = 162, 0.38


def table(first_heading: str) -> list[list[str]]:
    """Return the cells of the rows of the table whose first column has this heading."""
    _, _, rest = TEXT.partition(f"| {first_heading} |")
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    assert rows, first_heading
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]


def figure(cell: str) -> float:
    """Return the number that begins a cell."""
    match = re.match(r"[\d,.]+", cell)
    assert match, cell
    return float(match[0].replace(",", ""))


def lines_with(*labels: str) -> list[str]:
    """Return the samples of the golden exposition that have all these."""
    return [line for line in GOLDEN if not line.startswith("#") and all(label in line for label in labels)]


def size(lines: list[str]) -> int:
    """Return the bytes of lines as they go over the wire."""
    return sum(len(line.encode()) + 1 for line in lines)


def own_lines() -> tuple[list[str], list[str]]:
    """Return what an exporter without targets exposes: its samples, and the HELP and TYPE lines."""
    lines = render(CollectorRegistry(), Format.TEXT).decode().splitlines()
    registry = CollectorRegistry()
    ProbeMetrics(registry)
    lines += render(registry, Format.TEXT).decode().splitlines()
    return [line for line in lines if not line.startswith("#")], [line for line in lines if line.startswith("#")]


PAIR = lines_with('model="llama3.1"')
TARGET = [*lines_with("ollama_probe_up{", 'target="gpu-a"'), *lines_with("ollama_probe_server_info{")]
CARD = lines_with("ollama_probe_gpu_info{")


def test_every_sample_is_counted_once() -> None:
    """Each sample belongs to a pair, a target, a card or the exporter itself: nothing is left out of the sums."""
    kinds = [lines_with("model="), lines_with("ollama_probe_up{"), lines_with("ollama_probe_server_info{"), CARD]
    kinds.append(lines_with("ollama_probe_build_info{"))
    assert sorted(line for kind in kinds for line in kind) == sorted(lines_with())


def test_series_and_bytes() -> None:
    """The table of what each thing exposes is the exposition's own count; the process's bytes are rounded."""
    samples, comments = own_lines()
    pair, target, card, process, scrape, described = table("for each")
    assert [figure(cell) for cell in pair[1:]] == [len(PAIR), size(PAIR)]
    assert [figure(cell) for cell in target[1:]] == [len(TARGET), size(TARGET)]
    assert [figure(cell) for cell in card[1:]] == [len(CARD), size(CARD)]
    assert figure(process[1]) == len(samples)
    assert figure(process[2]) == pytest.approx(size(samples), abs=100)
    assert figure(scrape[1]) == 5
    golden = {line for line in GOLDEN if line.startswith("#")}
    assert figure(described[2]) == pytest.approx(size(sorted(golden | set(comments))), abs=100)
    first = re.search(r"comes to about\s+(\d+) kB", TEXT)
    assert first
    exposition = [*samples, *sorted(golden | set(comments)), *PAIR, *TARGET, *CARD]
    assert float(first[1]) == round(len(gzip.compress("\n".join(exposition).encode())) / 1000)


def test_hosts() -> None:
    """Samples a second and disk follow from the series of a host with one server, three models and one card."""
    host = 3 * len(PAIR) + len(TARGET) + len(CARD) + len(own_lines()[0]) + 5
    assert f"are {host} series a host" in TEXT
    for hosts, series, per_second, samples, disk in table("hosts"):
        expected = int(figure(hosts)) * host
        assert figure(series) == expected
        assert figure(per_second) == pytest.approx(expected / 60, rel=0.01)
        assert figure(samples) == pytest.approx(expected * 15 * DAY / 60 / 1e6, rel=0.01)
        unit = {"MB": 1e6, "GB": 1e9}[disk.split()[1]]
        assert figure(disk) * unit == pytest.approx(expected * 15 * DAY / 60 * BYTES_PER_SAMPLE, rel=0.01)


def test_sample_limit_is_what_it_says() -> None:
    """The models that fit under the limit of the scrape configurations are as many as the text says."""
    limits = set()
    for name in ("scrape-fleet.yml", "scrape-kubernetes.yml"):
        (job,) = yaml.safe_load((ROOT / "deploy/prometheus" / name).read_text())["scrape_configs"]
        limits.add(job["sample_limit"])
    told = re.search(r"`sample_limit: (\d+)` in a scrape configuration \((\d+) models\)", TEXT)
    assert told
    fixed = len(TARGET) + len(CARD) + len(own_lines()[0])
    assert limits == {int(told[1])}
    # At the limit a scrape still passes; every model with all that it can expose.
    assert int(told[2]) == (int(told[1]) - fixed) // len(PAIR)


def test_cost_of_probing() -> None:
    """GPU seconds and joules a day follow from interval, tokens and the two measured figures."""
    assert f"as measured: {RATE} tokens/s and {TOKENS_PER_JOULE} tokens per joule" in TEXT
    seconds_of = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600}
    for interval, tokens, probes, seconds, share, kilojoules, kilowatt_hours in table("interval"):
        count = DAY / seconds_of[interval.split()[0]]
        busy = count * figure(tokens) / RATE
        joules = count * figure(tokens) / TOKENS_PER_JOULE
        assert figure(probes) == count
        assert figure(seconds) == pytest.approx(busy, rel=0.01)
        assert figure(share) == pytest.approx(busy / DAY * 100, abs=0.006)
        assert figure(kilojoules) == pytest.approx(joules / 1000, abs=0.6)
        assert figure(kilowatt_hours) == pytest.approx(joules / 3.6e6 * 1000, abs=0.6)


def test_defaults_are_the_programs() -> None:
    """Interval, tokens and parallel probes that the text calls defaults are the settings' own."""
    (default,) = [row for row in table("interval") if "default" in row[0]]
    fields = Settings.model_fields
    assert float(fields["interval"].default) == 900
    assert fields["probe"].default.num_predict == figure(default[1])
    assert f"`max_concurrent_probes` ({fields['max_concurrent_probes'].default})" in TEXT


def test_metrics_named_exist() -> None:
    """Every metric that the document names is in the golden exposition."""
    names = set(re.findall(r"\bollama_probe_\w+[a-z]\b", TEXT))
    assert names
    exposed = "\n".join(GOLDEN)
    assert not [name for name in names if not re.search(rf"^{name}\b", exposed, re.MULTILINE)]


def test_links_lead_somewhere() -> None:
    """Every link in the document is a file or a folder of the project."""
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "deploy" / link).exists(), link
