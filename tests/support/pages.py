"""The project's Markdown pages, and the examples and links in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = tuple(
    sorted(
        {
            *ROOT.glob("*.md"),
            *(page for folder in ("docs", "deploy", "grafana", "tests") for page in (ROOT / folder).rglob("*.md")),
        }
    )
)
_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    """Return a page's path below the project's folder."""
    return page.relative_to(ROOT).as_posix()


def examples(page: Path, language: str) -> list[str]:
    """Return the page's fenced code blocks of a language."""
    return [text for _, found, text in _FENCED.findall(page.read_text()) if found == language]


def prose(page: Path) -> str:
    """Return the page without its fenced code blocks."""
    return _FENCED.sub("", page.read_text())


def links(page: Path) -> Iterator[str]:
    """Yield what the page links to or shows as a picture, as it is written."""
    text = prose(page)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
    yield from re.findall(r"<img\s[^>]*?src=\"([^\"]+)\"", text)


def anchors(page: Path) -> set[str]:
    """Return the anchors of the page's headings, as GitHub names them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        anchor = re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        same = sum(re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", other) is not None for other in found)
        found.add(f"{anchor}-{same}" if same else anchor)
    return found
