"""Messages about mistakes: the place that the user wrote, all mistakes at once, and never a secret."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.configurations import FILES, MISTAKES, Case, load, load_file, mistakes

from exporter.errors import SettingsError


@pytest.mark.parametrize("case", MISTAKES, ids=lambda case: case.name)
def test_each_mistake_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    """Each case is refused, with a place, in one line unless it has two mistakes."""
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).write_text(content, encoding="utf-8")
    Path("config.yml").write_text(case.text, encoding="utf-8")
    path = case.flags.get("config_file") or ("config.yml" if case.text else None)

    with pytest.raises(SettingsError) as refusal:
        load_file(Path(path) if path else None, flags=case.flags, environ=case.environ)

    lines = str(refusal.value).splitlines()
    assert len(lines) == (2 if "two mistakes" in case.name else 1)
    assert all(": " in line for line in lines)
    assert "Input should" not in str(refusal.value)  # pydantic's wording


@pytest.mark.parametrize(
    ("text", "place", "keyword"),
    [
        ("intervall: 5m", "intervall", "interval?"),
        ("probe: {questoin: x}", "probe.questoin", "question?"),
        ("web: {path: /x}", "web.path", "listen_address, telemetry_path"),
        ("targets: [{url: 'http://a:1', modles: [a]}]", "targets[0].modles", "models?"),
        (
            "targets: [{url: 'http://a:1', models: [{name: a, timeuot: 1m}]}]",
            "targets[0].models[0].timeuot",
            "timeout?",
        ),
        ("targets: [{url: 'https://a', tls: {ca_fil: x}}]", "targets[0].tls.ca_fil", "ca_file?"),
        (
            "targets: [{url: 'http://a:1', basic_auth: {username: u, password: s3cret, password_file: password}}]",
            "targets[0].basic_auth.password",
            "password_file?",
        ),
        ('"a\\nb": s3cret', "'a\\nb'", "unknown"),
        ('"(word)": s3cret', "(word)", "unknown"),
    ],
)
def test_an_unknown_key_is_refused_with_a_suggestion(tmp_path: Path, text: str, place: str, keyword: str) -> None:
    """The message contains the most similar key, or all known ones, and not the value."""
    (tmp_path / "password").write_text("p")

    (line,) = mistakes(tmp_path, text)

    assert line.startswith(f"{place}: ")
    assert keyword in line
    assert "s3cret" not in line


def test_all_mistakes_are_reported_at_the_place_that_the_user_wrote(tmp_path: Path) -> None:
    """The place is the flag, the variable, or the file and the key."""
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


@pytest.mark.parametrize(
    ("environ", "flags", "place"),
    [
        ({"OLLAMA_PROBE_TARGETS": '[{"url": "gpu"}]'}, {}, "OLLAMA_PROBE_TARGETS[0].url"),
        ({"OLLAMA_PROBE_WEB": '{"telemetry_path": "x"}'}, {}, "OLLAMA_PROBE_WEB.telemetry_path"),
        ({"ollama_probe_interval": "x"}, {}, "ollama_probe_interval"),
        ({"OLLAMA_HOST": "ftp://user:s3cret@a"}, {}, "OLLAMA_HOST"),
        ({"OLLAMA_HOST": "ftp://user:s3cret@a"}, {"model": ["m"]}, "OLLAMA_HOST"),
        ({}, {"model": ["a", "A:latest"]}, "--model"),
    ],
)
def test_a_place_is_written_as_the_user_wrote_it(
    tmp_path: Path, environ: dict[str, str], flags: dict[str, Any], place: str
) -> None:
    """Variables keep their names, with the rest of the path, and flags are named by their options."""
    (line,) = mistakes(tmp_path, environ=environ, flags=flags)

    assert line.startswith(f"{place}: ")
    assert "s3cret" not in line


def test_a_value_of_the_file_is_not_attributed_to_a_variable(tmp_path: Path) -> None:
    """A key of the file is named by its path, even if a variable sets another key of the same section."""
    (line,) = mistakes(tmp_path, "web: {telemetry_path: x}", environ={"OLLAMA_PROBE_WEB": '{"listen_address": ":1"}'})

    assert line.startswith("web.telemetry_path: ")


def test_a_long_value_is_shortened(tmp_path: Path) -> None:
    """A message stays readable if a long text was pasted into a key."""
    (line,) = mistakes(tmp_path, f"probe: {{template: {'x' * 5000}}}")

    assert len(line) < 250


def test_a_value_is_shown_as_written(tmp_path: Path) -> None:
    """A value from the environment may be secret, so the reference to it is shown."""
    (line,) = mistakes(tmp_path, "interval: '${SECRET}'", environ={"SECRET": "hunter2"})

    assert '("${SECRET}")' in line


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
    "password as a key": "targets: [{{url: 'http://a:1', basic_auth: {{username: u, password: '{secret}'}}}}]",
    "password as user": "targets: [{{url: 'http://a:1', basic_auth: {{username: 'u:{secret}', password_file: x}}}}]",
    "password as file": "targets: [{{url: 'http://a:1', basic_auth: {{username: u, password_file: '{secret}'}}}}]",
    "token as file": "targets: [{{url: 'http://a:1', bearer_token_file: '{secret}'}}]",
    "token in an unknown key": "targets: [{{url: 'http://a:1', bearer_token: '{secret}'}}]",
    "variable in a url": "targets: [{{url: 'http://user:${{SECRET}}@a:{port}'}}]",
    "variable in a header": "targets: [{{url: 'http://a:{port}', headers: {{X: '${{SECRET}}'}}}}]",
    "variable in other keys": "{{interval: '${{SECRET}}', probe: {{template: '${{SECRET}}', seed: '${{SECRET}}'}}}}",
    "variable as models": "targets: [{{url: 'http://a:1', models: '${{SECRET}}'}}]",
    "not yaml": "a: '{secret}",
    "alias": "a: *{secret}",
}


@pytest.mark.parametrize("port", ["1", "99999"], ids=["accepted", "refused"])
@pytest.mark.parametrize("place", SECRETS)
def test_secrets_are_never_shown(tmp_path: Path, place: str, port: str) -> None:
    """Settings, plans and errors, with their causes and tracebacks, do not show a secret of the file."""
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "http://user:hunter2@a:99999/?hunter2") for name in ("OLLAMA_HOST", "OLLAMA_PROBE_INTERVAL")),
        *((f"OLLAMA_PROBE_{key}", "http://user:hunter2@a:1") for key in ("TARGETS", "LOG", "X")),
        *((f"OLLAMA_PROBE_{key}", '[{"url": "hunter2"') for key in ("TARGETS", "LOG", "X")),
    ],
)
def test_secrets_of_the_environment_are_never_shown(tmp_path: Path, name: str, value: str) -> None:
    """Neither a password in a URL nor broken JSON, which may contain one, is shown."""
    for line in mistakes(tmp_path, environ={name: value}):
        assert "hunter2" not in line
