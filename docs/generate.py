"""Write the tables of docs/reference/ and of the runbook from the program: `python docs/generate.py` (`make docs`).

A page marks each generated part with `<!-- generated: NAME -->` and `<!-- end -->`; the text around it is written by
hand.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from exporter.errors import Reason, SkipReason
from exporter.metrics.families import metrics_table
from exporter.settings.reference import FLAGS, settings_table

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs/reference"
RULES = ROOT / "deploy/prometheus/rules.yml"
RUNBOOK = "../../deploy/prometheus/runbook.md"
PAGES = (*sorted(REFERENCE.glob("*.md")), ROOT / "deploy/prometheus/runbook.md")
READING_LABELS = ("target", "model", "gpu")
HELP_WIDTH = "100"
MARKED = re.compile(r"(?<=<!-- generated: )([\w-]+) -->\n.*?(?=<!-- end -->)", re.DOTALL)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def code(text: str) -> str:
    """Return the text as inline code, or an empty string if there is no text."""
    return f"`{text}`" if text else ""


def readings() -> str:
    """Return the table of the metrics of one probe, which are all gauges with the labels target, model and gpu."""
    rows = (row for row in metrics_table() if row.labels[:3] == READING_LABELS)
    return table(
        ("metric", "more labels", "meaning"),
        ((code(row.name), ", ".join(map(code, row.labels[3:])), row.help) for row in rows),
    )


def status() -> str:
    """Return the table of all other metrics."""
    rows = (row for row in metrics_table() if row.labels[:3] != READING_LABELS)
    return table(
        ("metric", "type", "labels", "meaning"),
        ((code(row.name), row.type, ", ".join(map(code, row.labels)), row.help) for row in rows),
    )


def settings() -> str:
    """Return the table of configuration keys."""
    return table(
        ("key", "default", "flag", "meaning"),
        (
            (code(row.key), "" if row.default == "null" else code(row.default), code(row.flag), row.meaning)
            for row in settings_table()
        ),
    )


def flags() -> str:
    """Return the table of the flags that set a configuration key."""
    return table(("flag", "meaning"), ((code(f"{flag.option} {flag.metavar}"), flag.meaning) for flag in FLAGS))


def command_help(*words: str) -> str:
    """Return what a command prints for `--help`, 100 columns wide, with no variable of this program set."""
    own = ("OLLAMA", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environment |= {"COLUMNS": HELP_WIDTH, "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "exporter", *words, "--help"]
    outcome = subprocess.run(  # noqa: S603 - this program, with constant arguments
        command, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return outcome.stdout


def commands() -> list[str]:
    """Return the names of the commands, in the order of the top-level help."""
    _, _, listed = command_help().partition("\ncommands:")
    return re.findall(r"^    ([a-z-]+)(?=\s)", listed, re.MULTILINE)


def help_texts() -> str:
    """Return the `--help` of the program and of each command in its own section."""
    sections = (f"### {name}\n\n```text\n{command_help(name)}```\n" for name in commands())
    return "\n".join((f"```text\n{command_help()}```\n", *sections))


def reasons() -> str:
    """Return the table of failure reasons with their remedies."""
    return table(("reason", "what to do"), ((code(reason), reason.remedy) for reason in Reason))


def skip_reasons() -> str:
    """Return the table of the reasons for which a due probe is not run."""
    return table(("reason", "meaning"), ((code(reason), reason.text) for reason in SkipReason))


def _alerting_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def _readable(summary: str) -> str:
    """Return a summary with its template actions replaced by the names of what they insert."""
    text = re.sub(r"\{\{ with \$labels\.(\w+) \}\}(.*?)\{\{ \. \}\}(.*?)\{\{ end \}\}", r"\2*\1*\3", summary)
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", text)
    return re.sub(r"\{\{ \$value[^}]*\}\}", "*value*", text)


def alerts() -> str:
    """Return the table of alerting rules; each name links to its section of the runbook."""
    return table(
        ("alert", "severity", "for", "keeps firing for", "summary"),
        (
            (
                f"[`{rule['alert']}`]({RUNBOOK}#{rule['alert'].lower()})",
                rule["labels"]["severity"],
                rule.get("for", ""),
                rule.get("keep_firing_for", ""),
                _readable(rule["annotations"]["summary"]),
            )
            for rule in _alerting_rules()
        ),
    )


def expressions() -> str:
    """Return the expression of each alerting rule in its own section."""
    return "\n".join(f"### {rule['alert']}\n\n```promql\n{rule['expr']}\n```\n" for rule in _alerting_rules())


PARTS: dict[str, Callable[[], str]] = {
    "readings": readings,
    "status": status,
    "settings": settings,
    "flags": flags,
    "help": help_texts,
    "reasons": reasons,
    "skip-reasons": skip_reasons,
    "alerts": alerts,
    "expressions": expressions,
}


def generated(page: str) -> str:
    """Return a page with each of its generated parts as the program has it now."""
    return MARKED.sub(lambda found: f"{found[1]} -->\n{PARTS[found[1]]()}", page)


def main() -> None:
    """Write every page that has generated parts."""
    for page in PAGES:
        page.write_text(generated(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
