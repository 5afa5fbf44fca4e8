"""What the documentation shows can be used: commands, `make` targets, queries, metric names and configuration."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certifi
import promql_parser
import pytest
import yaml
from support import pages
from support.configurations import load
from support.programs import Prometheus, Release, releases

from exporter import cli
from exporter.metrics.families import metrics_table

PROGRAM = "ollama-throughput-exporter"
RULES = pages.ROOT / "deploy/prometheus/rules.yml"
FIXED = {"healthcheck"}  # parsed by its own module
QUERIES = [(pages.name(page), query) for page in pages.PAGES for query in pages.examples(page, "promql")]
START = 1_700_000_000
HOUR = 3600


def shell_lines() -> list[tuple[str, str]]:
    """Return each command line that the pages show, continued lines joined, with the name of its page."""
    return [
        (pages.name(page), line.strip())
        for page in pages.PAGES
        for block in pages.examples(page, "sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]


def yaml_examples(*keys: str) -> list[tuple[str, dict[str, Any]]]:
    """Return each YAML example with one of these top-level keys, with the name of its page."""
    found = [(pages.name(page), yaml.safe_load(text)) for page in pages.PAGES for text in pages.examples(page, "yaml")]
    return [(name, example) for name, example in found if example.keys() & set(keys)]


def test_commands_of_the_program_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """Every command line of the program parses: its command and its flags exist."""
    checked = 0
    for page, line in shell_lines():
        words = shlex.split(line, comments=True)
        if not words or Path(words[0]).name != PROGRAM or "[COMMAND]" in words:
            continue
        arguments = words[1:] if words[1:] and not words[1].startswith("-") else ["run", *words[1:]]
        if arguments[0] in FIXED:
            continue
        try:
            cli.parser().parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{page}: {line}: {capsys.readouterr().err}")
        checked += 1
    assert checked


def test_make_targets_exist() -> None:
    """Every `make` target that is named in a text or shown as a command is one of the Makefile's."""
    targets = set(re.findall(r"^([a-z-]+):", (pages.ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (pages.name(page), target)
        for page in pages.PAGES
        for words in re.findall(r"`make ([a-z -]+?)(?: [A-Z]+=[^`]*)?`", page.read_text())
        for target in words.split()
    }
    named |= {(page, line.split()[1]) for page, line in shell_lines() if line.startswith("make ")}
    assert named
    assert {(page, target) for page, target in named if target not in targets} == set()


def test_flags_in_make_arguments_exist() -> None:
    """Every flag that is passed to a `make` target in ARGS is one of the script that the target runs."""
    scripts = {"rules": "deploy/prometheus/generate_rules.py", "bench-alerts": "tests/bench/alerts/run.py"}
    checked = 0
    for page, line in shell_lines():
        found = re.fullmatch(r'make ([a-z-]+) ARGS="(.*)"', line)
        if found and found[1] in scripts:
            source = (pages.ROOT / scripts[found[1]]).read_text()
            for flag in re.findall(r"--[a-z-]+", found[2]):
                assert f'"{flag}"' in source, f"{page}: {line}"
                checked += 1
    assert checked


def test_files_of_the_project_in_commands_exist() -> None:
    """Every path below one of the project's folders that a command names exists."""
    named = {
        (page, word)
        for page, line in shell_lines()
        for word in shlex.split(line, comments=True)
        if re.match(r"(deploy|docs|grafana|requirements|tests|exporter)/", word) and "=" not in word
    }
    assert named
    assert {(page, path) for page, path in named if not (pages.ROOT / path).exists()} == set()


@pytest.mark.parametrize(("page", "query"), QUERIES, ids=[page for page, _ in QUERIES])
def test_queries_parse(page: str, query: str) -> None:
    """Every PromQL example is valid."""
    assert page
    promql_parser.parse(query)


def test_metrics_exist() -> None:
    """Every metric that a page names is exposed by the exporter or recorded by the rules."""
    table = metrics_table()
    known = {row.name for row in table}
    known |= {f"{row.name}_{part}" for row in table if row.type == "histogram" for part in ("bucket", "sum", "count")}
    groups = yaml.safe_load(RULES.read_text())["groups"]
    known |= {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}
    named = {
        (pages.name(page), metric)
        for page in pages.PAGES
        for metric in re.findall(r"\bollama_probe[_:][\w:]*\w(?![\w*])", page.read_text())
    }
    assert named
    assert {(page, metric) for page, metric in named if metric not in known} == set()


def test_alerts_exist() -> None:
    """Every alert that a page names is one of the rules'."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    known = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    named = {
        (pages.name(page), alert)
        for page in pages.PAGES
        for alert in re.findall(r"\bOllamaProbe[A-Z]\w+", page.read_text())
    }
    assert named
    assert {(page, alert) for page, alert in named if alert not in known} == set()


def test_configurations_of_the_exporter_are_valid(tmp_path: Path) -> None:
    """Every example of a configuration file is accepted."""
    (tmp_path / "password").write_text("secret")
    shutil.copy(certifi.where(), tmp_path / "ca.pem")
    examples = yaml_examples("targets")
    assert examples
    for _, example in examples:
        load(tmp_path, yaml.safe_dump(example))


def test_configurations_of_prometheus_and_alertmanager_are_valid(tmp_path: Path) -> None:
    """Every example for Prometheus passes `promtool check config`, and every one for Alertmanager `amtool`."""
    if not releases():
        pytest.skip("no Prometheus: `make programs` fetches it on Debian; elsewhere put promtool and amtool on PATH")
    newest = releases()[-1]
    shutil.copy(RULES, tmp_path / "rules.yml")
    shown = yaml_examples("scrape_configs", "global", "receivers")
    assert {"receivers" in config for _, config in shown} == {True, False}
    for page, config in shown:
        file = tmp_path / "config.yml"
        file.write_text(yaml.safe_dump(config))
        command: list[str | Path] = [newest.promtool, "check", "config", "--syntax-only", file]
        if "receivers" in config:
            command = [newest.amtool, "check-config", file]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert outcome.returncode == 0, f"{page}: {outcome.stdout}{outcome.stderr}"


def test_the_variable_for_targets_is_understood(tmp_path: Path) -> None:
    """The environment variable that the reference shows for a list is accepted as it is written."""
    text = (pages.ROOT / "docs/reference/configuration.md").read_text()
    found = re.search(r"`OLLAMA_PROBE_TARGETS='(.+?)'`", text)
    assert found
    (target,) = load(tmp_path, environ={"OLLAMA_PROBE_TARGETS": found[1]}).plans()
    (written,) = json.loads(found[1])
    assert target.url == written["url"]
    assert [model.model for model in target.models if not isinstance(model, str)] == written["models"]


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/query.md"])
def test_the_comparison_query_survives_a_change_of_the_gpu_label(
    page: str, release: Release, run_prometheus: Callable[..., Prometheus], tmp_path: Path
) -> None:
    """A model that fell from its GPU to the CPU within the hour is compared with its rate before."""
    (query,) = (query for query in pages.examples(pages.ROOT / page, "promql") if "offset 1h" in query)
    labels = 'job="j",instance="i:1",target="gpu-a",model="llama3.1"'
    lines = ["# TYPE ollama_probe_decode_tokens_per_second gauge"]
    for gpu, rate, begin, end in (("NVIDIA H100", 100, 0, HOUR), ("cpu", 8, HOUR, 2 * HOUR)):
        lines += [
            f'ollama_probe_decode_tokens_per_second{{{labels},gpu="{gpu}"}} {rate} {START + second}'
            for second in range(begin, end, 30)
        ]
    history = tmp_path / "history.txt"
    history.write_text("\n".join([*lines, "# EOF\n"]))
    data = tmp_path / "data"
    command: list[str | Path] = [release.promtool, "tsdb", "create-blocks-from", "openmetrics", history, data]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    prometheus = run_prometheus(release, "", "--storage.tsdb.retention.time=100y", folder=tmp_path)
    (answer,) = prometheus.query(query, time=START + HOUR + 1800)
    assert answer == ({"target": "gpu-a", "model": "llama3.1"}, 0.08)
