"""The tables of docs/reference/ and of the runbook are what the program has now."""

from __future__ import annotations

import os
import re
from pathlib import Path

import generate
import pytest
from support import pages

README_WORDS = 1200


@pytest.mark.parametrize("page", generate.PAGES, ids=pages.name)
def test_a_generated_page_is_up_to_date(page: Path) -> None:
    """Each generated part is what `make docs` would write."""
    assert generate.generated(page.read_text()) == page.read_text(), "run `make docs`"


def test_every_part_is_on_one_page_of_the_reference() -> None:
    """Each part that can be generated is on exactly one page, so that nothing of the reference is missing."""
    reference = [page for page in generate.PAGES if page.parent == generate.REFERENCE]
    parts = [part for page in reference for part in generate.MARKED.findall(page.read_text())]
    assert sorted(parts) == sorted(generate.PARTS)


def test_every_command_has_its_help() -> None:
    """The help of each command is a section with a usage line of that command."""
    names = generate.commands()
    assert {"run", "probe", "calibrate", "check-config", "gpus", "demo", "healthcheck"} <= set(names)
    text = (generate.REFERENCE / "flags.md").read_text()
    for name in names:
        assert re.search(rf"^### {name}\n\n```text\nusage: ollama-throughput-exporter {name} ", text, re.MULTILINE), (
            name
        )


def test_the_help_does_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow terminal, colours and variables of this program change nothing in the generated help."""
    before = generate.command_help("run")
    for variable, value in {"COLUMNS": "50", "FORCE_COLOR": "1", "OLLAMA_PROBE_INTERVAL": "7m"}.items():
        monkeypatch.setitem(os.environ, variable, value)
    assert generate.command_help("run") == before


def test_summaries_of_alerts_have_no_template_actions() -> None:
    """Each template action of a summary is replaced by the name of what it inserts."""
    assert "{{" not in generate.alerts()
    assert "*target*" in generate.alerts()


def test_a_cell_cannot_break_its_table() -> None:
    """A vertical bar in a text is escaped."""
    assert generate.table(["a", "b"], [["x|y", "z"]]).splitlines()[-1] == r"| x\|y | z |"


def test_the_readme_is_short() -> None:
    """The README has at most 1,200 words."""
    assert len((pages.ROOT / "README.md").read_text().split()) <= README_WORDS
