"""Writes the README's tables from the program: `python docs/generate.py` (`make docs`). A test compares them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from exporter.errors import Reason
from exporter.metrics.families import metrics_table
from exporter.settings.reference import FLAGS, settings_table

README = Path(__file__).parents[1] / "README.md"
MARKED = re.compile(r"(?<=<!-- generated: )(\w+) -->\n.*?(?=<!-- end -->)", re.DOTALL)
READING = ("target", "model", "gpu")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def code(text: str) -> str:
    """Return the text as Markdown code, or nothing of nothing."""
    return f"`{text}`" if text else ""


def readings() -> str:
    """Return the table of what a probe measured; its three labels and the kind, gauge, are said above it."""
    rows = [row for row in metrics_table() if row.labels[:3] == READING]
    return table(
        ("gauge", "more labels", "meaning"),
        (
            (code(row.name), ", ".join(row.labels[3:]), row.help.replace(" Of the last scheduled probe.", ""))
            for row in rows
        ),
    )


def status() -> str:
    """Return the table of all other metrics."""
    rows = [row for row in metrics_table() if row.labels[:3] != READING]
    return table(
        ("metric", "type", "labels", "meaning"),
        ((code(row.name), row.type, ", ".join(row.labels), row.help) for row in rows),
    )


def settings() -> str:
    """Return the table of configuration keys."""
    return table(
        ("key", "default", "meaning"),
        ((code(row.key), "" if row.default == "null" else code(row.default), row.meaning) for row in settings_table()),
    )


def flags() -> str:
    """Return the table of flags."""
    return table(("flag", "meaning"), ((code(f"{flag.option} {flag.metavar}"), flag.meaning) for flag in FLAGS))


def reasons() -> str:
    """Return the table of failure reasons with their remedies."""
    return table(("reason", "what to do"), ((code(reason), reason.remedy) for reason in Reason))


def with_tables(text: str) -> str:
    """Return the README with every generated part as the program now has it."""
    parts = {"readings": readings, "status": status, "settings": settings, "flags": flags, "reasons": reasons}
    return MARKED.sub(lambda found: f"{found[1]} -->\n{parts[found[1]]()}", text)


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
