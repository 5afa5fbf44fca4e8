"""Settings come from flags, environment, file and defaults, in this order."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import certifi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.certificates import CLIENT
from support.configurations import load

from exporter.errors import SettingsError
from exporter.plan import TargetPlan
from exporter.settings import Settings
from exporter.settings.checks import warnings
from exporter.settings.reference import settings_table

EXAMPLE = Path(__file__).parents[2] / "deploy" / "config.example.yml"


def _only(settings: Settings) -> tuple[TargetPlan, list[str]]:
    (plan,) = settings.plans()
    assert isinstance(plan.models, tuple)
    return plan, [model.model for model in plan.models]


def test_the_strongest_source_wins(tmp_path: Path) -> None:
    """A flag overrides the environment, which overrides the file, which overrides the default, key by key."""
    text = "{interval: 1m, probe: {seed: 1, num_predict: 20}, log: {level: error}, web: {telemetry_path: /file}}"
    environ = {"OLLAMA_PROBE_INTERVAL": "2m", "OLLAMA_PROBE_PROBE__SEED": "2", "OLLAMA_PROBE_LOG__LEVEL": "warn"}

    settings = load(tmp_path, text, flags={"interval": "3m", "log_format": "json"}, environ=environ)

    assert settings.interval == 180.0
    assert (settings.probe.seed, settings.probe.num_predict, settings.probe.timeout) == (2, 20, 120.0)
    assert (settings.log.level, settings.log.format) == ("warn", "json")
    assert settings.web.telemetry_path == "/file"


def test_a_flag_overrides_a_file_with_targets(tmp_path: Path) -> None:
    """A flag for a global key can be used with configured targets; a key of a target stays more specific."""
    text = """
        interval: 1m
        log: {level: debug, format: json}
        web: {listen_address: [":1", ":2"]}
        targets: [{url: 'http://a:1'}, {url: 'http://b:1', interval: 2m}]
    """

    settings = load(tmp_path, text, flags={"interval": "7m", "log_level": "warn", "web_listen_address": [":3"]})

    assert [plan.defaults.interval_seconds for plan in settings.plans()] == [420, 120]
    assert (settings.log.level, settings.log.format) == ("warn", "json")
    assert settings.web.listen_address == (":3",)


def test_every_flag_sets_its_key(tmp_path: Path) -> None:
    """Flags that are not given, and names that are not flags, change nothing."""
    settings = load(
        tmp_path,
        flags={
            "url": "gpu-a:11434",
            "model": ["a", "b"],
            "gpu": "NVIDIA H200",
            "interval": "5m",
            "web_listen_address": [":1", "[::1]:2"],
            "web_telemetry_path": "/m",
            "log_level": "debug",
            "log_format": None,
            "command": "run",
        },
    )
    plan, models = _only(settings)

    assert (plan.url, plan.gpu, models) == ("http://gpu-a:11434", "NVIDIA H200", ["a", "b"])
    assert plan.defaults.interval_seconds == 300
    assert settings.web.listen_addresses == (("", 1), ("::1", 2))
    assert (settings.web.telemetry_path, settings.log.level, settings.log.format) == ("/m", "debug", "logfmt")


@pytest.mark.parametrize("word", ["installed", "loaded"])
def test_a_flag_can_ask_for_discovery(tmp_path: Path, word: str) -> None:
    """`--model installed` alone means discovery; with other models it is a name."""
    (plan,) = load(tmp_path, flags={"model": [word]}).plans()
    assert plan.models == word
    assert _only(load(tmp_path, flags={"model": [word, "a"]}))[1] == [word, "a"]


def test_ollama_host_is_the_default_of_the_url(tmp_path: Path) -> None:
    """Ollama's variable is used, also with other flags, unless a URL is given."""
    environ = {"OLLAMA_HOST": "gpu-a:1234"}

    assert _only(load(tmp_path, environ=environ))[0].url == "http://gpu-a:1234"
    assert _only(load(tmp_path, environ=environ, flags={"model": ["m"]}))[0].url == "http://gpu-a:1234"
    assert _only(load(tmp_path, environ=environ, flags={"url": "http://b:1"}))[0].url == "http://b:1"
    assert _only(load(tmp_path, "targets: [{url: 'http://c:1'}]", environ=environ))[0].url == "http://c:1"


_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["5m", "http://a:1", "${X}"])
)
_KEYS = (
    st.sampled_from(sorted({part for row in settings_table() for part in re.split(r"\W+", row.key) if part}))
    | st.text()
)
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4))


@settings(max_examples=40)
@given(st.dictionaries(_KEYS, _VALUES, max_size=5), st.lists(st.dictionaries(_KEYS, _VALUES, max_size=5), max_size=2))
def test_any_configuration_is_accepted_or_refused(
    tmp_path_factory: pytest.TempPathFactory, configuration: dict[str, Any], targets: list[dict[str, Any]]
) -> None:
    """Any data gives settings with plans and warnings, or a SettingsError with a text."""
    try:
        accepted = load(
            tmp_path_factory.getbasetemp(),
            json.dumps({"targets": [{"url": "http://a:1", **target} for target in targets], **configuration}),
        )
    except SettingsError as error:
        refused = str(error).encode()
    else:
        refused = b""
        warnings(accepted)
    assert refused or accepted.plans()


def test_the_example_configuration_is_complete(tmp_path: Path) -> None:
    """It can be loaded, contains the defaults, and can also be loaded with all comments removed."""
    text = EXAMPLE.read_text(encoding="utf-8")
    settings = load(tmp_path, text)
    first, second = settings.plans()

    defaults = load(tmp_path)
    assert (settings.interval, settings.max_concurrent_probes) == (defaults.interval, defaults.max_concurrent_probes)
    assert (settings.probe, settings.web, settings.log) == (defaults.probe, defaults.web, defaults.log)
    assert (first.name, first.gpu, second.models) == ("gpu-a", "NVIDIA GeForce RTX 3090", "loaded")

    for name in ("token", "password"):
        (tmp_path / name).write_text("s3cret")
    (tmp_path / "ca.pem").write_bytes(Path(certifi.where()).read_bytes())
    for name in ("client.pem", "client.key"):
        shutil.copy(CLIENT, tmp_path / name)
    complete = load(
        tmp_path,
        re.sub(r"^( +)# ((?: *)(?:- )?(?!borrow|load|skip)\w[\w-]*:)", r"\1\2", text, flags=re.MULTILINE),
        environ={"API_KEY": "k"},
    )
    assert [plan.name for plan in complete.plans()] == ["gpu-a", "this machine", "behind a proxy"]


def test_loading_settings_does_not_import_langchain() -> None:
    """LangChain's import takes over a second, and the daemon must answer before that."""
    program = "import exporter.settings, exporter.settings.checks, exporter.logs, sys; print(*sys.modules)"

    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert "pydantic_settings" in modules.stdout
    assert not re.search(r"\b(langchain|langsmith|ollama|httpx|aiohttp)\w*\b", modules.stdout.replace("exporter", ""))
