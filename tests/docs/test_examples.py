"""The README says what the program does."""

from __future__ import annotations

import re

import generate as readme
import promql_parser
import pytest

from exporter import cli
from exporter.metrics.families import metrics_table

ROOT = readme.README.parent
TEXT = readme.README.read_text()


def test_tables_are_the_programs_own() -> None:
    """Every generated table is what `make docs` would write now, and all five are there."""
    assert set(readme.MARKED.findall(TEXT)) == {"readings", "status", "settings", "flags", "reasons"}
    assert readme.with_tables(TEXT) == TEXT, "run `make docs`"


def test_names_only_metrics_that_exist() -> None:
    """A metric named in the text or in a query is one that the exporter exposes."""
    exposed = {row.name for row in metrics_table()}
    histograms = {row.name for row in metrics_table() if row.type == "histogram"}
    exposed |= {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    assert set(re.findall(r"\bollama_probe_\w+", TEXT)) <= exposed


def test_links_lead_somewhere() -> None:
    """A link to a file of this project finds that file, and one to a heading of the README finds that heading."""
    headings = {
        re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-")
        for h in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif "://" not in target:
            assert (ROOT / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_exist(page: str) -> None:
    """A `make` target that the text names is one of the Makefile's."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"`make ([a-z -]+?)(?: [A-Z]+=[^`]*)?`", (ROOT / page).read_text())
    assert {word for words in named for word in words.split()} <= targets


def test_queries_parse() -> None:
    """Every query to copy is valid PromQL."""
    queries = re.findall(r"^```promql\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert queries
    for query in queries:
        promql_parser.parse(query)


def test_commands_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """Every command line of the program that stands on a line of its own parses."""
    lines = re.findall(r"^(?:\.venv/bin/)?ollama-throughput-exporter\b(.*?)(?:  #.*)?$", TEXT, re.MULTILINE)
    assert lines
    for line in lines:
        words = [word.strip("'\"") for word in line.split()]
        cli.parser().parse_args(words if words and not words[0].startswith("-") else ["run", *words])
    assert capsys.readouterr().err == ""
