"""The schema can be searched by key and by location."""

from __future__ import annotations

from exporter.settings.keys import keys_of, names_of, section_at
from exporter.settings.probe_schema import ModelSettings
from exporter.settings.schema import Settings
from exporter.settings.target_schema import BasicAuth, TargetSettings


def test_a_location_gives_its_section() -> None:
    """The section has the keys that are allowed at the location."""
    assert section_at(Settings, ()) is Settings
    assert section_at(Settings, ("targets", 0)) is TargetSettings
    assert section_at(Settings, ("targets", 0, "models", 3)) is ModelSettings
    assert section_at(Settings, ("targets", 0, "basic_auth")) is BasicAuth
    assert section_at(Settings, ("targets", 0, "headers", "x")) is None
    assert section_at(Settings, ("nothing", "there")) is None


def test_keys_inside_lists_have_no_variable() -> None:
    """An environment variable can set a key, a section or a list, but not a part of a list."""
    keys = {".".join(key.path): key for key in keys_of(Settings)}

    assert keys["web.telemetry_path"].has_variable
    assert keys["web"].has_variable
    assert keys["targets"].has_variable
    assert keys["targets"].is_list
    assert not keys["targets[].models[].name"].has_variable
    assert keys["targets[].basic_auth"].section is BasicAuth


def test_inherited_keys_are_last() -> None:
    """The keys of a section come before those that it inherits."""
    names = names_of(ModelSettings)

    assert names[:2] == ["name", "expected_decode_tokens_per_second"]
    assert set(names) == set(ModelSettings.model_fields)
