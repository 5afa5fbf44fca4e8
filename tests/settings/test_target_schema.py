"""Targets and models: what they inherit, what they may not say together, and the plans that come out."""

from __future__ import annotations

import socket
from pathlib import Path

import certifi
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.configurations import load, mistakes

from exporter.plan import ModelPlan, TargetPlan
from exporter.settings.target_schema import TargetSettings

INHERITANCE = """
    interval: 10m
    probe: {num_predict: 100, timeout: 1m, keep_alive: 5m, seed: 1}
    targets:
      - url: http://gpu-a:11434
        interval: 20m
        num_predict: 200
        models:
          - a
          - name: b
            interval: 30m
            num_predict: 300
            keep_alive: null
            temperature: 0.5
            expected_decode_tokens_per_second: 52
      - url: http://gpu-b:11434
        models: installed
        when_unloaded: skip
"""


def _models(target: TargetPlan) -> dict[str, ModelPlan]:
    assert isinstance(target.models, tuple)
    return {model.model: model for model in target.models}


def test_a_model_inherits_from_its_target_and_that_from_the_top(tmp_path: Path) -> None:
    """The nearest place that sets a key wins, also where it sets null or the default's own value."""
    first, second = load(tmp_path, INHERITANCE).plans()
    a, b = _models(first)["a"], _models(first)["b"]

    assert (a.interval_seconds, a.workload.num_predict, a.keep_alive) == (1200, 200, "5m")
    assert (b.interval_seconds, b.workload.num_predict, b.keep_alive) == (1800, 300, None)
    assert (a.timeout_seconds, b.timeout_seconds, a.load_timeout_seconds) == (60, 60, 300)
    assert (a.workload.seed, a.workload.temperature, b.workload.temperature) == (1, 0, 0.5)
    assert (a.expected_decode_tokens_per_second, b.expected_decode_tokens_per_second) == (None, 52)
    assert (a.when_unloaded, second.defaults.when_unloaded) == ("borrow", "skip")
    assert second.models == "installed"
    assert (second.defaults.model, second.defaults.interval_seconds) == ("", 600)
    assert first.defaults.workload.num_predict == 200


def test_setting_the_default_again_overrides_what_stands_above(tmp_path: Path) -> None:
    """A key written on a model counts even where it says what the program's default says."""
    (plan,) = load(
        tmp_path,
        """
        probe: {num_predict: 100}
        targets: [{url: http://a:1, models: [{name: m, num_predict: 256}]}]
        """,
    ).plans()

    assert _models(plan)["m"].workload.num_predict == 256


def test_a_workload_has_one_hash_however_it_is_written(tmp_path: Path) -> None:
    """The temperature 0 and 0.0 are one workload: rates compare within it."""
    (whole,) = load(tmp_path, "probe: {temperature: 0}").plans()
    (real,) = load(tmp_path, "probe: {temperature: 0.0}").plans()

    assert whole.defaults.workload.hash == real.defaults.workload.hash


def test_everything_about_reaching_a_server_is_in_its_plan(tmp_path: Path) -> None:
    """URL, card, credentials and certificates arrive as they were written, files from the configuration's directory."""
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

    assert (plan.name, plan.url, plan.gpu, plan.local) == (
        "gpu-a",
        "https://gpu-a.example:443/ollama",
        "NVIDIA H200",
        True,
    )
    assert (plan.headers, plan.username, plan.password) == ({"X-Key": "k3y"}, "prometheus", None)
    assert (plan.password_file, plan.ca_file) == (tmp_path / "password", tmp_path / "ca.pem")
    assert (plan.bearer_token_file, plan.insecure_skip_verify) == (None, False)


def test_user_info_of_the_url_becomes_the_credentials(tmp_path: Path) -> None:
    """A user name and a password in the URL are sent, and the URL no longer holds them."""
    (plan,) = load(tmp_path, "targets: [{url: 'http://user:s3cret@gpu-a:11434'}]").plans()

    assert (plan.url, plan.username, plan.password) == ("http://gpu-a:11434", "user", "s3cret")


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("localhost", True), ("192.0.2.1", False), ("gpu-a.example", False)]
)
def test_local_is_found_out_unless_it_is_said(tmp_path: Path, host: str, *, local: bool) -> None:
    """A server on loopback is local, another is not, and what the user says stands above both."""
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


def test_a_target_without_a_name_has_its_address_as_name(tmp_path: Path) -> None:
    """Host and port name a target, and the host name stands for loopback: two servers of one machine stay apart."""
    plans = load(
        tmp_path, "targets: [{url: 'http://gpu-a'}, {url: 'http://127.0.0.1:1'}, {url: 'http://[::1]:2'}]"
    ).plans()

    hostname = socket.gethostname()
    assert [plan.name for plan in plans] == ["gpu-a:80", f"{hostname}:1", f"{hostname}:2"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("models: [llama3.1, 'llama3.1:latest']", "targets[0]: models: 'llama3.1' is listed twice"),
        ("models: [a, {name: a, interval: 1h}]", "targets[0]: models: 'a' is listed twice"),
        ("models: []", "targets[0].models: an empty list: write at least one"),
        ("models: everything", "targets[0].models: \"everything\": write one of 'installed' or 'loaded'"),
        ("models: [3.1]", "targets[0].models[0]: 3.1: not a name: put it in quotes"),
        ("models: ['']", 'targets[0].models[0].name: "": empty: write some text'),
        ("models: [{interval: 1h}]", "targets[0].models[0].name: required: add it"),
        (
            "models: [{name: a, expected_decode_tokens_per_second: 0}]",
            "targets[0].models[0].expected_decode_tokens_per_second: 0: it should be greater than 0",
        ),
        ("name: ' '", 'targets[0].name: " ": empty: write some text'),
        ("gpu: ''", 'targets[0].gpu: "": empty: write some text'),
        ("local: perhaps", 'targets[0].local: "perhaps": it should be a valid boolean'),
        ("tls: {insecure_skip_verify: true}", "targets[0]: tls has no effect on an http URL: write https://"),
        ("bearer_token_file: no-such-file", "targets[0].bearer_token_file: the file cannot be read (No such file"),
        ("basic_auth: {username: u}", "targets[0].basic_auth.password_file: required: add it"),
        ("basic_auth: {username: 'u:s3cret', password_file: secret}", "targets[0].basic_auth.username: a colon cannot"),
        ("basic_auth: {username: '', password_file: secret}", "targets[0].basic_auth.username: empty"),
    ],
)
def test_a_target_that_makes_no_sense_is_refused(tmp_path: Path, target: str, message: str) -> None:
    """What contradicts itself, is missing or would be without effect is refused."""
    (tmp_path / "secret").write_text("s3cret")

    (line,) = mistakes(tmp_path, f"targets: [{{url: 'http://a:1', {target}}}]")

    assert line.startswith(message)
    assert "s3cret" not in line


@pytest.mark.parametrize(
    "pair",
    [
        "bearer_token_file: secret, basic_auth: {username: u, password_file: secret}",
        "bearer_token_file: secret, headers: {authorization: Basic s3cret}",
        "basic_auth: {username: u, password_file: secret}, headers: {Authorization: Basic s3cret}",
    ],
)
@pytest.mark.parametrize("url", ["http://a:1", "http://user:s3cret@a:1"])
def test_only_one_authorization_can_be_sent(tmp_path: Path, url: str, pair: str) -> None:
    """Two of bearer, basic, user info and an Authorization header would hide each other."""
    (tmp_path / "secret").write_text("s3cret")

    (line,) = mistakes(tmp_path, f"targets: [{{url: '{url}', {pair}}}]")

    assert line.startswith("targets[0]: only one authorization can be sent: keep one of ")
    assert ("user name in url" in line) == ("@" in url)
    assert "s3cret" not in line


def test_a_ca_beside_no_check_at_all_is_refused(tmp_path: Path) -> None:
    """`insecure_skip_verify` would make `ca_file` a key without effect."""
    (line,) = mistakes(
        tmp_path,
        f"targets: [{{url: 'https://a', tls: {{ca_file: '{certifi.where()}', insecure_skip_verify: true}}}}]",
    )

    assert line.startswith("targets[0].tls: ca_file has no effect beside insecure_skip_verify")


@given(st.text(min_size=1, max_size=300).filter(str.strip))
def test_any_name_will_do(name: str) -> None:
    """Names of targets, models and cards may hold any characters: quotes, newlines, braces, other scripts."""
    target = TargetSettings.model_validate({"name": name, "url": "http://a:1", "gpu": name, "models": [name]})

    assert (target.label, target.gpu) == (name, name)
    assert isinstance(target.models, tuple)
    assert target.models[0].name == name


def test_a_name_that_cannot_be_written_in_utf8_is_refused(tmp_path: Path) -> None:
    """Half of a surrogate pair, which YAML's escapes allow, could not be exposed."""
    for line in mistakes(
        tmp_path, 'targets: [{url: "http://a:1", name: "\\ud800", gpu: "\\ud800", models: ["\\ud800"]}]'
    ):
        assert "half a character, which UTF-8 cannot say" in line
        line.encode()
