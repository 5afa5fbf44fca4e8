"""Locations are written in the way that users write keys."""

from __future__ import annotations

from exporter.settings.locations import dotted


def test_indexes_are_in_brackets() -> None:
    """Keys are joined by dots, and a key with control characters is quoted."""
    assert dotted(("targets", 0, "models", 1, "name")) == "targets[0].models[1].name"
    assert dotted(("a\nb",)) == "'a\\nb'"
    assert dotted(()) == ""
