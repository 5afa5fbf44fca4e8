"""Settings come from flags, environment, file and defaults; mistakes are told where they were made; secrets never."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.configurations import load, mistakes

from exporter.errors import SettingsError
from exporter.plan import TargetPlan
from exporter.settings import Settings, load_settings
from exporter.settings.checks import warnings
from exporter.settings.reference import settings_table

EXAMPLE = Path(__file__).parents[2] / "deploy" / "config.example.yml"


def _only(settings: Settings) -> tuple[TargetPlan, list[str]]:
    (plan,) = settings.plans()
    assert isinstance(plan.models, tuple)
    return plan, [model.model for model in plan.models]


def test_the_strongest_source_wins(tmp_path: Path) -> None:
    """A flag stands above the environment, that above the file, and the file above the default, key by key."""
    text = "{interval: 1m, probe: {seed: 1, num_predict: 20}, log: {level: error}, web: {telemetry_path: /file}}"
    environ = {"OLLAMA_PROBE_INTERVAL": "2m", "OLLAMA_PROBE_PROBE__SEED": "2", "OLLAMA_PROBE_LOG__LEVEL": "warn"}

    settings = load(tmp_path, text, flags={"interval": "3m", "log_format": "json"}, environ=environ)

    assert settings.interval == 180.0
    assert (settings.probe.seed, settings.probe.num_predict, settings.probe.timeout) == (2, 20, 120.0)
    assert (settings.log.level, settings.log.format) == ("warn", "json")
    assert settings.web.telemetry_path == "/file"


def test_every_flag_arrives(tmp_path: Path) -> None:
    """Each flag sets what it is named for; one that was not given, and names of others, change nothing."""
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
            "config_file": tmp_path / "none.yml",
            "command": "run",
        },
    )
    plan, models = _only(settings)

    assert (plan.url, plan.gpu, models) == ("http://gpu-a:11434", "NVIDIA H200", ["a", "b"])
    assert plan.defaults.interval_seconds == 300
    assert settings.web.listen_addresses == (("", 1), ("::1", 2))
    assert (settings.web.telemetry_path, settings.log.level, settings.log.format) == ("/m", "debug", "logfmt")


@pytest.mark.parametrize("word", ["installed", "loaded"])
def test_discovery_can_be_asked_for_by_a_flag(tmp_path: Path, word: str) -> None:
    """`--model installed` is the word of the configuration; beside others it is a name."""
    (plan,) = load(tmp_path, flags={"model": [word]}).plans()
    assert plan.models == word
    assert _only(load(tmp_path, flags={"model": [word, "a"]}))[1] == [word, "a"]


def test_ollama_host_says_where_the_one_target_is(tmp_path: Path) -> None:
    """Ollama's own variable is used where nothing else says where the server is, also beside other flags."""
    environ = {"OLLAMA_HOST": "gpu-a:1234"}

    assert _only(load(tmp_path, environ=environ))[0].url == "http://gpu-a:1234"
    assert _only(load(tmp_path, environ=environ, flags={"model": ["m"]}))[0].url == "http://gpu-a:1234"
    assert _only(load(tmp_path, environ=environ, flags={"url": "http://b:1"}))[0].url == "http://b:1"
    assert _only(load(tmp_path, "targets: [{url: 'http://c:1'}]", environ=environ))[0].url == "http://c:1"
    assert mistakes(tmp_path, environ={"OLLAMA_HOST": "ftp://user:s3cret@a"}) == [
        'OLLAMA_HOST: "ftp://***@a:11434": not a scheme that Ollama speaks: write http://HOST:11434 or https://HOST'
    ]


@pytest.mark.parametrize("flag", ["url", "model", "gpu", "interval"])
def test_short_cuts_are_refused_beside_targets(tmp_path: Path, flag: str) -> None:
    """A short cut cannot say which of the configured targets it means."""
    targets = '[{"url": "http://a:1"}]'
    value = ["5m"] if flag == "model" else "5m"
    expected = [f"--{flag}: only for a single target, and `targets` are configured: write it there"]

    assert mistakes(tmp_path, f"targets: {targets}", flags={flag: value}) == expected
    assert mistakes(tmp_path, environ={"OLLAMA_PROBE_TARGETS": targets}, flags={flag: value}) == expected


def test_the_environment_can_hold_everything(tmp_path: Path) -> None:
    """Targets are JSON there, addresses are separated by commas, names may be in small letters, empty is not set."""
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
            "OLLAMA_PROBE_INTERVAL": "",
            "OTHER": "x",
        },
    )
    plan, models = _only(settings)

    assert (plan.url, models, plan.bearer_token_file) == ("http://a:1", ["m"], tmp_path / "token")
    assert settings.web.listen_addresses == (("", 1), ("::1", 2))
    assert (settings.max_concurrent_probes, settings.interval) == (7, 900.0)
    assert (settings.probe.reasoning, settings.probe.keep_alive, settings.probe.question) == (True, 300, "[why?")


def test_this_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping the process's own variables count."""
    monkeypatch.setenv("OLLAMA_PROBE_MAX_CONCURRENT_PROBES", "9")

    assert load_settings(config_file=None, flags={}).max_concurrent_probes == 9


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("OLLAMA_PROBE_INTERVALL", "no such variable: after OLLAMA_PROBE_ did you mean INTERVAL?; else unset it"),
        ("OLLAMA_PROBE_WEB__TELEMETRY_PTH", "no such variable: after OLLAMA_PROBE_ did you mean WEB__TELEMETRY_PATH?"),
        ("OLLAMA_PROBE_INTERVAL__X", "no such variable: after OLLAMA_PROBE_ did you mean INTERVAL?"),
        ("OLLAMA_PROBE_WEB", "no such variable: after OLLAMA_PROBE_ "),
        ("OLLAMA_PROBE_", "no such variable: after OLLAMA_PROBE_ "),
    ],
)
def test_an_unknown_variable_is_refused(tmp_path: Path, name: str, message: str) -> None:
    """A misspelt variable is a mistake, as a misspelt key is, and its value is not shown."""
    (line,) = mistakes(tmp_path, environ={name: "s3cret"})

    assert line.startswith(f"{name}: {message}")
    assert "s3cret" not in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("intervall: 5m", "intervall: no such key: did you mean interval?"),
        ("probe: {questoin: x}", "probe.questoin: no such key: did you mean question?"),
        ("web: {path: /x}", "web.path: no such key: there are listen_address, telemetry_path"),
        ("targets: [{url: 'http://a:1', modles: [a]}]", "targets[0].modles: no such key: did you mean models?"),
        (
            "targets: [{url: 'http://a:1', models: [{name: a, timeuot: 1m}]}]",
            "targets[0].models[0].timeuot: no such key: did you mean timeout?",
        ),
        (
            "targets: [{url: 'https://a', tls: {ca_fil: x}}]",
            "targets[0].tls.ca_fil: no such key: did you mean ca_file?",
        ),
        (
            "targets: [{url: 'http://a:1', basic_auth: {username: u, password: s3cret, password_file: password}}]",
            "targets[0].basic_auth.password: no such key: did you mean password_file?",
        ),
        ('"a\\nb": s3cret', "'a\\nb': no such key"),
        ('"(word)": s3cret', "(word): no such key"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known(tmp_path: Path, text: str, message: str) -> None:
    """Nothing is accepted and ignored; what was meant is named, what was written as its value is not."""
    (tmp_path / "password").write_text("p")

    (line,) = mistakes(tmp_path, text)

    assert line.startswith(message)
    assert "s3cret" not in line


def test_a_mistake_is_told_where_it_was_made(tmp_path: Path) -> None:
    """Flag, variable, or file and path: the name is the one that the user wrote, and all are told at once."""
    with pytest.raises(SettingsError) as refusal:
        load(
            tmp_path,
            "{interval: 1s, probe: {seed: x}, log: {level: loud}}",
            flags={"interval": "soon", "web_listen_address": [":1", "x"], "url": "gpu", "model": [" "], "gpu": ""},
            environ={"OLLAMA_PROBE_PROBE__TIMEOUT": "5", "OLLAMA_PROBE_LOG__FORMAT": "xml"},
        )

    assert [line.partition(": ")[0] for line in str(refusal.value).splitlines()] == [
        "--interval",
        str(tmp_path / "config.yml"),
        "OLLAMA_PROBE_PROBE__TIMEOUT",
        "--url",
        "--gpu",
        "--model",
        "--web.listen-address",
        str(tmp_path / "config.yml"),
        "OLLAMA_PROBE_LOG__FORMAT",
    ]
    (line,) = mistakes(tmp_path, environ={"OLLAMA_PROBE_TARGETS": '[{"url": "gpu"}]'})
    assert line.startswith('OLLAMA_PROBE_TARGETS[0].url: "gpu": neither scheme nor port')
    assert mistakes(tmp_path, environ={"OLLAMA_PROBE_TARGETS": "http://user:s3cret@a"}) == [
        'OLLAMA_PROBE_TARGETS: not JSON: write a list of targets, [{"url": ...}]'
    ]


def test_a_model_given_twice_by_flags_is_told_of_the_flag(tmp_path: Path) -> None:
    """Where no file has targets, a message does not send the user there."""
    (line,) = mistakes(tmp_path, "interval: 5m", flags={"model": ["a", "a:latest"]})

    assert line.startswith("--model: models: 'a' is listed twice")


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
def test_anything_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, configuration: dict[str, Any], targets: list[dict[str, Any]]
) -> None:
    """No configuration, however strange, ends otherwise than in settings with plans or in a refusal with a text."""
    try:
        taken = load(
            tmp_path_factory.getbasetemp(),
            json.dumps({"targets": [{"url": "http://a:1", **target} for target in targets], **configuration}),
        )
    except SettingsError as refusal:
        refused = str(refusal).encode()
    else:
        refused = b""
        warnings(taken)
    assert refused or taken.plans()


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    """A message stays readable, whatever was pasted into a key."""
    (line,) = mistakes(tmp_path, f"probe: {{template: {'x' * 5000}}}")

    assert len(line) < 250


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


SECRETS = {
    "url password": "targets: [{{url: 'http://user:{secret}@a:{port}'}}]",
    "url user": "targets: [{{url: 'http://{secret}:x@a:{port}'}}]",
    "broken url": "targets: [{{url: 'htp:/user:{secret}@a:1'}}]",
    "unescaped password": "targets: [{{url: 'http://user:#{secret}?/@a:1'}}]",
    "url query": "targets: [{{url: 'http://a:1/?key={secret}'}}]",
    "url instead of a target": "targets: ['http://user:{secret}@a:1']",
    "url instead of targets": "targets: 'http://user:{secret}@a:1'",
    "url as name": "targets: [{{url: 'http://a:{port}', name: [ 'http://u:{secret}@a' ]}}]",
    "header": "targets: [{{url: 'http://a:{port}', headers: {{Authorization: 'Bearer {secret}'}}}}]",
    "bad header": "targets: [{{url: 'http://a:1', headers: {{'Bad Name': '{secret}'}}}}]",
    "list as header": "targets: [{{url: 'http://a:1', headers: {{X: ['{secret}']}}}}]",
    "headers as text": "targets: [{{url: 'http://a:1', headers: '{secret}'}}]",
    "basic_auth as text": "targets: [{{url: 'http://a:1', basic_auth: '{secret}'}}]",
    "password in place": "targets: [{{url: 'http://a:1', basic_auth: {{username: u, password: '{secret}'}}}}]",
    "password as user": "targets: [{{url: 'http://a:1', basic_auth: {{username: 'u:{secret}', password_file: x}}}}]",
    "password as file": "targets: [{{url: 'http://a:1', basic_auth: {{username: u, password_file: '{secret}'}}}}]",
    "token as file": "targets: [{{url: 'http://a:1', bearer_token_file: '{secret}'}}]",
    "token in an unknown key": "targets: [{{url: 'http://a:1', bearer_token: '{secret}'}}]",
    "variable in a url": "targets: [{{url: 'http://user:${{SECRET}}@a:{port}'}}]",
    "variable in a header": "targets: [{{url: 'http://a:{port}', headers: {{X: '${{SECRET}}'}}}}]",
    "variable in a bad place": "{{interval: '${{SECRET}}', probe: {{template: '${{SECRET}}', seed: '${{SECRET}}'}}}}",
    "not yaml": "a: '{secret}",
    "alias": "a: *{secret}",
}


@pytest.mark.parametrize("port", ["1", "99999"], ids=["accepted", "refused"])
@pytest.mark.parametrize("place", SECRETS)
def test_no_secret_is_ever_shown(tmp_path: Path, place: str, port: str) -> None:
    """Neither the settings nor the plans nor a refusal, with all that it holds on to, shows a planted secret."""
    secret = "hunter2hunter2"
    shown: list[Any]
    try:
        settings = load(tmp_path, SECRETS[place].format(secret=secret, port=port), environ={"SECRET": secret})
    except SettingsError as error:
        shown = [str(error), *(repr(link) for link in _chain(error)), *(str(link) for link in _chain(error))]
        shown += ["".join(traceback.format_exception(error))]
        assert port == "99999" or "{port}" not in SECRETS[place] or "name" in place
    else:
        shown = [repr(settings), str(settings), repr(settings.plans()), repr(settings.targets[0].url)]
        shown += [settings.plans()[0].url, settings.plans()[0].name]
        assert port == "1" or "header" in place

    assert not any(secret in text for text in shown)


@pytest.mark.parametrize("name", ["OLLAMA_HOST", "OLLAMA_PROBE_TARGETS", "OLLAMA_PROBE_INTERVAL", "OLLAMA_PROBE_X"])
def test_no_secret_of_the_environment_is_shown(tmp_path: Path, name: str) -> None:
    """A URL with a password in a variable that cannot hold it is refused without showing it."""
    for line in mistakes(tmp_path, environ={name: "http://user:hunter2@a:99999/?hunter2"}):
        assert "hunter2" not in line


def test_the_example_configuration_is_whole(tmp_path: Path) -> None:
    """It loads as it is shipped, says the defaults, and also loads with what is commented out in it."""
    text = EXAMPLE.read_text(encoding="utf-8")
    settings = load(tmp_path, text)
    first, second = settings.plans()

    nothing = load(tmp_path)
    assert (settings.interval, settings.max_concurrent_probes) == (nothing.interval, nothing.max_concurrent_probes)
    assert (settings.probe, settings.web, settings.log) == (nothing.probe, nothing.web, nothing.log)
    assert (first.name, first.gpu, second.models) == ("gpu-a", "NVIDIA GeForce RTX 3090", "loaded")

    for name in ("token", "password"):
        (tmp_path / name).write_text("s3cret")
    (tmp_path / "ca.pem").write_bytes(Path(pytest.importorskip("certifi").where()).read_bytes())
    whole = load(
        tmp_path,
        re.sub(r"^( +)# ((?: *)(?:- )?\w[\w-]*:)", r"\1\2", text, flags=re.MULTILINE),
        environ={"API_KEY": "k"},
    )
    assert [plan.name for plan in whole.plans()] == ["gpu-a", "this machine", "behind a proxy"]


def test_loading_settings_does_not_import_langchain() -> None:
    """The daemon answers within a second of start: the settings must not wait for LangChain."""
    program = "import exporter.settings, exporter.settings.checks, exporter.logs, sys; print(*sys.modules)"

    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert "pydantic_settings" in modules.stdout
    assert not re.search(r"\b(langchain|langsmith|ollama|httpx|aiohttp)\w*\b", modules.stdout.replace("exporter", ""))
