"""Links in the documentation lead to files and headings that exist."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import pages

MAXIMUM_PICTURE_BYTES = 300_000


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_links_of_a_page_exist(page: Path) -> None:
    """A link to a file finds it, and its anchor is a heading of that page."""
    for link in pages.links(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), f"{link}: no such file"
        assert linked.is_relative_to(pages.ROOT), f"{link} leaves the project"
        if anchor:
            assert anchor in pages.anchors(linked), f"{link}: no such heading"


def test_every_page_of_the_documentation_is_reachable() -> None:
    """From the README, each page in docs/ is reached by following links."""
    reached, waiting = set[Path](), [pages.ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        local = [link.partition("#")[0] for link in pages.links(page) if "://" not in link]
        waiting += [(page.parent / link).resolve() for link in local if link]
    unreached = {page for page in pages.PAGES if page.is_relative_to(pages.ROOT / "docs")} - reached
    assert {pages.name(page) for page in unreached} == set()


def test_pictures_are_shown_and_small() -> None:
    """Each picture in docs/ and grafana/ is shown on a page, and each shown picture is below 300 kB."""
    shown = {(page.parent / link).resolve() for page in pages.PAGES for link in pages.links(page)}
    pictures = {*(pages.ROOT / "docs").rglob("*.png"), *(pages.ROOT / "grafana").rglob("*.png")}
    assert pictures
    assert pictures <= shown
    assert {pages.name(picture) for picture in pictures if picture.stat().st_size > MAXIMUM_PICTURE_BYTES} == set()
