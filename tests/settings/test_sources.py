"""The environment and the configuration file as sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.configurations import load, load_file, mistakes

from exporter.settings import load_settings


def test_the_environment_can_set_every_key(tmp_path: Path) -> None:
    """Targets and sections are JSON, addresses are separated by commas, names may be lower case."""
    (tmp_path / "token").write_text("t")
    targets = [
        {"url": "http://a:1", "models": [{"name": "m", "interval": "1h"}], "bearer_token_file": f"{tmp_path}/token"}
    ]
    settings = load(
        tmp_path,
        environ={
            "OLLAMA_PROBE_TARGETS": json.dumps(targets),
            "OLLAMA_PROBE_WEB__LISTEN_ADDRESS": ":1, [::1]:2",
            "ollama_probe_max_concurrent_probes": "7",
            "OLLAMA_PROBE_PROBE__REASONING": "true",
            "OLLAMA_PROBE_PROBE__KEEP_ALIVE": "300",
            "OLLAMA_PROBE_PROBE__QUESTION": "[why?",
            "OLLAMA_PROBE_LOG": '{"level": "debug", "format": "logfmt"}',
            "OLLAMA_PROBE_LOG__FORMAT": "json",
            "OTHER": "x",
        },
    )
    (plan,) = settings.plans()

    assert (plan.url, plan.bearer_token_file) == ("http://a:1", tmp_path / "token")
    assert [key.model for key in plan.listed_models()] == ["m"]
    assert settings.web.listen_addresses == (("", 1), ("::1", 2))
    assert (settings.max_concurrent_probes, settings.interval) == (7, 900.0)
    assert (settings.probe.reasoning, settings.probe.keep_alive, settings.probe.question) == (True, 300, "[why?")
    assert (settings.log.level, settings.log.format) == ("debug", "json")


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    """An empty value leaves the default, also if the name is unknown."""
    assert load(tmp_path, environ={"OLLAMA_PROBE_INTERVAL": "", "OLLAMA_PROBE_X": ""}).interval == 900.0


def test_the_environment_of_the_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of this process are settings."""
    monkeypatch.setenv("OLLAMA_PROBE_MAX_CONCURRENT_PROBES", "9")

    assert load_settings(config_file=None, flags={}).max_concurrent_probes == 9


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("OLLAMA_PROBE_INTERVALL", "OLLAMA_PROBE_INTERVAL?"),
        ("OLLAMA_PROBE_WEB__TELEMETRY_PTH", "OLLAMA_PROBE_WEB__TELEMETRY_PATH?"),
        ("OLLAMA_PROBE_INTERVAL__X", "OLLAMA_PROBE_INTERVAL?"),
        ("OLLAMA_PROBE_TARGETS__0__URL", "OLLAMA_PROBE_TARGETS?"),
        ("OLLAMA_PROBE_", ""),
        ("OLLAMA_PROBE_Z", ""),
    ],
)
def test_an_unknown_variable_is_refused(tmp_path: Path, name: str, similar: str) -> None:
    """The message is one line with the most similar known name, and without the value."""
    (line,) = mistakes(tmp_path, environ={name: "s3cret"})

    assert line.startswith(f"{name}: ")
    assert line.endswith(similar)
    assert "s3cret" not in line


@pytest.mark.parametrize("name", ["OLLAMA_PROBE_TARGETS", "OLLAMA_PROBE_WEB"])
def test_a_variable_that_is_not_json_is_refused_with_the_other_mistakes(tmp_path: Path, name: str) -> None:
    """A value that is not JSON does not hide other mistakes."""
    lines = mistakes(tmp_path, environ={name: "[{", "OLLAMA_PROBE_INTERVAL": "soon"})

    assert {line.partition(": ")[0] for line in lines} == {name, "OLLAMA_PROBE_INTERVAL"}
    assert any("JSON" in line for line in lines)


def test_a_variable_can_name_the_configuration_file(tmp_path: Path) -> None:
    """The file of the flag is used rather than that of the variable."""
    (tmp_path / "other.yml").write_text("interval: 5m")
    environ = {"OLLAMA_PROBE_CONFIG_FILE": str(tmp_path / "other.yml")}

    assert load_file(None, environ=environ).interval == 300.0
    assert load(tmp_path, "interval: 6m", environ=environ).interval == 360.0
    (tmp_path / "other.yml").write_text("interval: soon")
    (line,) = mistakes(tmp_path, environ=environ)
    assert line.startswith(f"{tmp_path / 'other.yml'}: interval: ")


def test_the_file_cannot_name_another_file(tmp_path: Path) -> None:
    """The key `config_file` would have no effect in the file."""
    (line,) = mistakes(tmp_path, "config_file: other.yml")

    assert line.startswith("config_file: ")


@pytest.mark.parametrize("flag", ["url", "model", "gpu"])
def test_flags_for_a_single_target_are_refused_with_targets(tmp_path: Path, flag: str) -> None:
    """Such a flag does not say which of the configured targets it is for."""
    targets = '[{"url": "http://a:1"}]'
    flags = {flag: ["m"] if flag == "model" else "http://b:1"}

    for line in (
        *mistakes(tmp_path, f"targets: {targets}", flags=flags),
        *mistakes(tmp_path, environ={"OLLAMA_PROBE_TARGETS": targets}, flags=flags),
    ):
        assert line.startswith("targets: ")
        assert f"--{flag}" in line
