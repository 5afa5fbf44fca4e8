"""Targets: the plans that they give, and combinations of keys that are refused."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import certifi
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.certificates import CA, CLIENT, SERVER
from support.configurations import load, mistakes, target

from exporter.settings.target_schema import TargetSettings


def test_the_number_of_discovered_models_is_limited(tmp_path: Path) -> None:
    """One server's models must not fill Prometheus' sample limit."""
    default, more = load(
        tmp_path,
        """
        targets:
          - {url: "http://192.0.2.1:1", models: installed}
          - {url: "http://192.0.2.2:1", models: installed, max_models: 200}
        """,
    ).plans()

    assert (default.max_models, more.max_models) == (64, 200)


def test_a_target_gives_a_plan_with_all_its_values(tmp_path: Path) -> None:
    """Every key of the target is in its plan."""
    (tmp_path / "password").write_text("s3cret\n")
    (tmp_path / "ca.pem").write_bytes(Path(certifi.where()).read_bytes())

    (plan,) = load(
        tmp_path,
        """
        targets:
          - name: gpu-a
            url: https://gpu-a.example/ollama/
            gpu: NVIDIA H200
            local: true
            headers: {X-Key: k3y}
            basic_auth: {username: prometheus, password_file: password}
            tls: {ca_file: ca.pem}
        """,
    ).plans()

    assert (plan.name, plan.url) == ("gpu-a", "https://gpu-a.example:443/ollama")
    assert (plan.gpu, plan.local) == ("NVIDIA H200", True)
    assert (plan.headers, plan.username, plan.password) == ({"X-Key": "k3y"}, "prometheus", None)
    assert (plan.password_file, plan.ca_file) == (tmp_path / "password", tmp_path / "ca.pem")
    assert (plan.bearer_token_file, plan.insecure_skip_verify) == (None, False)


def test_a_target_without_optional_keys_gives_a_plan_without_them(tmp_path: Path) -> None:
    """Credentials and TLS options have their defaults."""
    (plan,) = load(tmp_path, "targets: [{url: 'http://192.0.2.1:1'}]").plans()

    assert (plan.gpu, plan.local, plan.headers) == (None, False, {})
    assert (plan.username, plan.password, plan.password_file, plan.bearer_token_file) == (None, None, None, None)
    assert (plan.ca_file, plan.insecure_skip_verify) == (None, False)


def test_user_info_of_the_url_becomes_the_credentials(tmp_path: Path) -> None:
    """A user name and a password in the URL are sent, and the URL of the plan does not contain them."""
    (plan,) = load(tmp_path, "targets: [{url: 'http://user:s3cret@gpu-a:11434'}]").plans()

    assert (plan.url, plan.username, plan.password) == ("http://gpu-a:11434", "user", "s3cret")


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("localhost", True), ("192.0.2.1", False), ("gpu-a.example", False)]
)
def test_local_is_detected_unless_it_is_set(tmp_path: Path, host: str, *, local: bool) -> None:
    """A server on loopback is local, another is not, and the key overrides both."""
    plans = load(
        tmp_path,
        f"""
        targets:
          - {{name: found, url: 'http://{host}:1'}}
          - {{name: 'yes', url: 'http://{host}:1', local: true}}
          - {{name: 'no', url: 'http://{host}:1', local: false}}
        """,
    ).plans()

    assert [plan.local for plan in plans] == [local, True, False]


def test_the_default_name_is_the_address(tmp_path: Path) -> None:
    """A target without a name is named by host and port, with the host name for loopback."""
    plans = load(
        tmp_path, "targets: [{url: 'http://gpu-a'}, {url: 'http://127.0.0.1:1'}, {url: 'http://[::1]:2'}]"
    ).plans()

    hostname = socket.gethostname()
    assert [plan.name for plan in plans] == ["gpu-a:80", f"{hostname}:1", f"{hostname}:2"]


@pytest.mark.parametrize(
    ("keys", "place", "keyword"),
    [
        ("models: []", ".models", "empty list"),
        ("models: llama3.1", ".models", "[llama3.1]"),
        ("models: 3", ".models", "list"),
        ("name: ' '", ".name", "empty"),
        ("gpu: ''", ".gpu", "empty"),
        ("local: perhaps", ".local", "true or false"),
        ("tls: {insecure_skip_verify: true}", "", "http URL"),
        ("bearer_token_file: no-such-file", ".bearer_token_file", "No such file"),
        ("basic_auth: {username: u}", ".basic_auth.password_file", "required"),
        ("basic_auth: {username: 'u:s3cret', password_file: secret}", ".basic_auth.username", "colon"),
        ("basic_auth: {username: '', password_file: secret}", ".basic_auth.username", "empty"),
    ],
)
def test_an_invalid_target_is_refused(tmp_path: Path, keys: str, place: str, keyword: str) -> None:
    """The message gives the key and the problem, but no secret."""
    (tmp_path / "secret").write_text("s3cret")

    (line,) = mistakes(tmp_path, target(keys))

    assert line.startswith(f"targets[0]{place}: ")
    assert keyword in line
    assert "s3cret" not in line


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("llama3.1", "llama3.1"),
        ("llama3.1", "llama3.1:latest"),
        ("llama3.1", "Llama3.1"),
        ("llama3.1", "library/llama3.1:latest"),
        ("Llama3.1:8B", "registry.ollama.ai/library/llama3.1:8b"),
    ],
)
def test_two_spellings_of_one_model_are_refused(tmp_path: Path, first: str, second: str) -> None:
    """A model is one series, so a target may list it once. The message contains both spellings."""
    (line,) = mistakes(tmp_path, target(f"models: ['{first}', other, {{name: '{second}', interval: 1h}}]"))

    assert line.startswith("targets[0].models: ")
    assert repr(first) in line
    assert repr(second) in line


def test_models_that_differ_only_by_tag_or_namespace_are_accepted(tmp_path: Path) -> None:
    """Different models may have similar names."""
    (plan,) = load(tmp_path, target("models: [llama3.1, 'llama3.1:8b', me/llama3.1, hf.co/me/llama3.1]")).plans()

    assert len(plan.models) == 4


@pytest.mark.parametrize(
    "pair",
    [
        "bearer_token_file: secret, basic_auth: {username: u, password_file: secret}",
        "bearer_token_file: secret, headers: {authorization: Basic s3cret}",
        "basic_auth: {username: u, password_file: secret}, headers: {Authorization: Basic s3cret}",
    ],
)
@pytest.mark.parametrize("url", ["http://a:1", "http://user:s3cret@a:1"])
def test_only_one_kind_of_authorization_is_accepted(tmp_path: Path, url: str, pair: str) -> None:
    """The message lists those that are set: bearer token, basic authentication, user info, Authorization header."""
    (tmp_path / "secret").write_text("s3cret")

    (line,) = mistakes(tmp_path, target(pair, url))

    assert line.startswith("targets[0]: ")
    assert ("bearer_token_file" in line) == ("bearer" in pair)
    assert ("basic_auth" in line) == ("basic_auth" in pair)
    assert ("Authorization header" in line) == ("authorization" in pair.lower())
    assert ("user name in url" in line) == ("@" in url)
    assert "s3cret" not in line


def test_a_client_certificate_is_part_of_the_plan(tmp_path: Path) -> None:
    """Relative paths start at the directory of the file. The key may be in the file of the certificate."""
    shutil.copy(CLIENT, tmp_path / "client.pem")

    for more, key_file in (("", None), (", key_file: client.pem", tmp_path / "client.pem")):
        (plan,) = load(tmp_path, f"targets: [{{url: 'https://a', tls: {{cert_file: client.pem{more}}}}}]").plans()
        assert (plan.cert_file, plan.key_file) == (tmp_path / "client.pem", key_file)


@pytest.mark.parametrize(
    ("tls", "word"),
    [
        (f"key_file: '{CLIENT}'", "cert_file"),
        (f"cert_file: '{CA}'", "private key"),
        (f"cert_file: '{CLIENT}', key_file: '{SERVER}'", "private key"),
        ("cert_file: missing", "cannot be read"),
    ],
)
def test_a_client_certificate_that_cannot_be_used_is_refused(tmp_path: Path, tls: str, word: str) -> None:
    """No handshake would succeed."""
    (line,) = mistakes(tmp_path, f"targets: [{{url: 'https://a', tls: {{{tls}}}}}]")

    assert line.startswith("targets[0].tls: ")
    assert word in line


def test_a_ca_file_without_verification_is_refused(tmp_path: Path) -> None:
    """With `insecure_skip_verify` the key `ca_file` would have no effect."""
    (line,) = mistakes(
        tmp_path,
        f"targets: [{{url: 'https://a', tls: {{ca_file: '{certifi.where()}', insecure_skip_verify: true}}}}]",
    )

    assert line.startswith("targets[0].tls: ")


@given(st.text(min_size=1, max_size=300).filter(str.strip))
def test_names_may_contain_any_characters(name: str) -> None:
    """Names of targets, models and GPUs may contain quotes, newlines, braces and any script."""
    settings = TargetSettings.model_validate({"name": name, "url": "http://a:1", "gpu": name, "models": [name]})

    assert (settings.label, settings.gpu) == (name, name)
    assert isinstance(settings.models, tuple)
    assert settings.models[0].name == name


def test_names_that_are_not_unicode_are_refused(tmp_path: Path) -> None:
    """An unpaired surrogate, which YAML escapes can express, cannot be exposed."""
    lines = mistakes(tmp_path, 'targets: [{url: "http://a:1", name: "\\ud800", gpu: "\\ud800", models: ["\\ud800"]}]')

    assert [line.partition(": ")[0] for line in lines] == [
        "targets[0].name",
        "targets[0].gpu",
        "targets[0].models[0].name",
    ]
    for line in lines:
        assert "surrogate" in line
        line.encode()
