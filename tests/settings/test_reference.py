"""The table of settings and the flags say what the settings really are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from support.configurations import load

from exporter.settings.reference import FLAGS, dotted, known_variables, model_at, settings_table
from exporter.settings.target_schema import BasicAuth, ModelSettings, ProbeSettings, TargetSettings

EXAMPLE = Path(__file__).parents[2] / "deploy" / "config.example.yml"


def _keys(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}{key}"
            yield from _keys(item, f"{path}{key}.")
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item, f"{path.removesuffix('.')}[].")


def test_every_row_says_something() -> None:
    """Each key has a meaning, no key is there twice, and only what stands in no list has a variable."""
    rows = settings_table()

    assert all(row.meaning.endswith(".") for row in rows)
    assert len({row.key for row in rows}) == len(rows)
    assert all(bool(row.variable) == ("[]" not in row.key) for row in rows)
    assert [row.key for row in rows][:2] == ["interval", "max_concurrent_probes"]


def test_defaults_are_what_is_used(tmp_path: Path) -> None:
    """Writing every default that the table states changes nothing."""
    written = {
        row.variable: row.default.strip('"') for row in settings_table() if row.variable and row.key != "targets"
    }
    written["OLLAMA_PROBE_PROBE__TEMPLATE"] = json.loads(f'"{written["OLLAMA_PROBE_PROBE__TEMPLATE"]}"')
    written["OLLAMA_PROBE_WEB__LISTEN_ADDRESS"] = ",".join(json.loads(written["OLLAMA_PROBE_WEB__LISTEN_ADDRESS"]))
    assert written.pop("OLLAMA_PROBE_PROBE__KEEP_ALIVE") == "null"

    assert load(tmp_path, environ=written) == load(tmp_path)


def test_the_table_and_the_example_know_the_same_keys() -> None:
    """What the table lists is what the example shows, but for what may be set again."""
    example = set(_keys(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))))
    listed = {row.key for row in settings_table()}

    overrides = {"interval", *ProbeSettings.model_fields}
    assert {key for key in example if key.rpartition(".")[2] not in overrides or "[]" not in key} - {
        "probe",
        "web",
        "log",
    } <= listed
    text = EXAMPLE.read_text(encoding="utf-8")
    assert all(f"{key.rpartition('.')[2]}:" in text for key in listed if not key.endswith("*"))


def test_known_variables_set_their_keys() -> None:
    """A variable's name is its key's path, in capitals and with two underscores for a dot."""
    assert known_variables()["web", "telemetry_path"] == "OLLAMA_PROBE_WEB__TELEMETRY_PATH"
    assert known_variables()["interval",] == "OLLAMA_PROBE_INTERVAL"
    assert known_variables()["targets",] == "OLLAMA_PROBE_TARGETS"


def test_flags_are_spelt_as_exporters_spell_them() -> None:
    """Dots and dashes in the option, a name that Python takes for its value, and words for its help."""
    flags = {flag.option: flag for flag in FLAGS}

    assert flags["--web.listen-address"].dest == "web_listen_address"
    assert flags["--web.listen-address"].repeatable
    assert flags["--web.telemetry-path"].meaning == "Path of the metrics."
    assert all(flag.meaning.endswith(".") for flag in FLAGS)
    assert {row.flag for row in settings_table()} - {""} <= set(flags)


def test_sections_are_found_by_place() -> None:
    """A place in the configuration leads to the section whose keys are known there."""
    assert model_at(("targets", 0)) is TargetSettings
    assert model_at(("targets", 0, "models", 3)) is ModelSettings
    assert model_at(("targets", 0, "basic_auth")) is BasicAuth
    assert model_at(("targets", 0, "headers", "x")) is None
    assert model_at(("nothing", "there")) is None


def test_paths_are_written_as_people_write_them() -> None:
    """Indexes are in brackets, keys are joined by dots, and an odd key cannot break the line."""
    assert dotted(("targets", 0, "models", 1, "name")) == "targets[0].models[1].name"
    assert dotted(("a\nb",)) == "'a\\nb'"
