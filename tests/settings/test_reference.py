"""The tables of keys and flags agree with the settings that the program accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.configurations import load

from exporter.settings.probe_schema import ProbeSettings
from exporter.settings.reference import FLAGS, settings_table

EXAMPLE = Path(__file__).parents[2] / "deploy" / "config.example.yml"


def _keys(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}{key}"
            yield from _keys(item, f"{path}{key}.")
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item, f"{path.removesuffix('.')}[].")


def test_every_key_has_one_row() -> None:
    """Each key has a description, and an environment variable unless it is in a list."""
    rows = settings_table()

    assert all(row.meaning.endswith(".") for row in rows)
    assert len({row.key for row in rows}) == len(rows)
    assert all(bool(row.variable) == ("[]" not in row.key) for row in rows)
    assert [row.key for row in rows][:2] == ["interval", "max_concurrent_probes"]


def test_the_defaults_are_those_of_the_program(tmp_path: Path) -> None:
    """Setting every variable of the table to its default changes nothing."""
    written = {
        row.variable: row.default.strip('"') for row in settings_table() if row.variable and row.key != "targets"
    }
    written["OLLAMA_PROBE_PROBE__TEMPLATE"] = json.loads(f'"{written["OLLAMA_PROBE_PROBE__TEMPLATE"]}"')
    written["OLLAMA_PROBE_WEB__LISTEN_ADDRESS"] = ",".join(json.loads(written["OLLAMA_PROBE_WEB__LISTEN_ADDRESS"]))
    assert written.pop("OLLAMA_PROBE_PROBE__KEEP_ALIVE") == "null"

    assert load(tmp_path, environ=written) == load(tmp_path)


def test_the_table_and_the_example_have_the_same_keys() -> None:
    """Every key of the table is in the example, and the reverse, except for inherited keys."""
    text = EXAMPLE.read_text(encoding="utf-8")
    example = set(_keys(yaml.safe_load(text)))
    listed = {row.key for row in settings_table()}

    overrides = {"interval", *ProbeSettings.model_fields}
    sections = {"probe", "web", "log"}
    assert {key for key in example if key.rpartition(".")[2] not in overrides or "[]" not in key} - sections <= listed
    assert [key for key in listed if not key.endswith("*") and f"{key.rpartition('.')[2]}:" not in text] == []


def test_keys_with_few_values_list_them() -> None:
    """The values are available as data, and are in the description."""
    choices = {row.key: row.choices for row in settings_table() if row.choices}

    assert choices == {
        "probe.when_unloaded": ("borrow", "load", "skip"),
        "log.level": ("debug", "info", "warn", "error"),
        "log.format": ("logfmt", "json"),
    }
    assert all(value in row.meaning for row in settings_table() for value in row.choices)


@pytest.mark.parametrize(
    ("option", "dest", "default", "variable"),
    [
        ("--config.file", "config_file", "", "OLLAMA_PROBE_CONFIG_FILE"),
        ("--url", "url", "http://127.0.0.1:11434", "OLLAMA_HOST"),
        ("--model", "model", "llama3.1", ""),
        ("--gpu", "gpu", "", ""),
        ("--interval", "interval", "15m", "OLLAMA_PROBE_INTERVAL"),
        ("--web.listen-address", "web_listen_address", ":10434", "OLLAMA_PROBE_WEB__LISTEN_ADDRESS"),
        ("--web.telemetry-path", "web_telemetry_path", "/metrics", "OLLAMA_PROBE_WEB__TELEMETRY_PATH"),
        ("--log.level", "log_level", "info", "OLLAMA_PROBE_LOG__LEVEL"),
        ("--log.format", "log_format", "logfmt", "OLLAMA_PROBE_LOG__FORMAT"),
    ],
)
def test_flags_have_defaults_and_variables(option: str, dest: str, default: str, variable: str) -> None:
    """The data of a flag is what `--help` shows."""
    flag = {flag.option: flag for flag in FLAGS}[option]

    assert (flag.dest, flag.default, flag.variable) == (dest, default, variable)
    assert flag.meaning.endswith(".")


def test_keys_refer_to_their_flags() -> None:
    """A key that a flag sets names this flag, with its choices."""
    flags = {flag.option: flag for flag in FLAGS}
    rows = {row.flag: row for row in settings_table() if row.flag}

    assert set(rows) == {option for option, flag in flags.items() if not flag.of_target} - {"--config.file"}
    assert all(rows[option].choices == flags[option].choices for option in rows)
    assert flags["--log.level"].choices == ("debug", "info", "warn", "error")
    assert flags["--web.listen-address"].repeatable
