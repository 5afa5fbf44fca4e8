"""Configurations for tests, as a user writes them, with and without mistakes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any
from unittest.mock import patch

import certifi
import pytest

from exporter.errors import SettingsError
from exporter.settings import Settings, load_settings
from exporter.settings.reference import FLAGS


def load_file(
    path: Path | None, *, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings of a configuration file, with these flags and these variables in the environment."""
    with patch.dict(os.environ, environ or {}):
        return load_settings(config_file=path, flags=flags or {})


def load(
    directory: Path, text: str = "", *, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings of a configuration file with this text, or of no file if there is no text."""
    path = directory / "config.yml"
    path.write_text(dedent(text), encoding="utf-8")
    return load_file(path if text else None, flags=flags, environ=environ)


def mistakes(
    directory: Path, text: str = "", *, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> list[str]:
    """Return the lines of the error for such a configuration, without the path of the file."""
    with pytest.raises(SettingsError) as refusal:
        load(directory, text, flags=flags, environ=environ)
    prefix = f"{directory / 'config.yml'}: "
    return [line.removeprefix(prefix) for line in str(refusal.value).splitlines()]


def target(keys: str, url: str = "http://gpu-a:11434") -> str:
    """Return a configuration with one target that has these keys."""
    return f"targets: [{{url: '{url}', {keys}}}]"


@dataclass(frozen=True)
class Case:
    """A configuration for which `check-config` prints one line, an error or a warning."""

    name: str
    text: str = ""
    """The configuration file. Without text there is none."""
    environ: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Values by the `dest` of the flag."""
    in_container: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """The flags as arguments of the command line."""
        given = [(flag.option, self.flags[flag.dest]) for flag in FLAGS if flag.dest in self.flags]
        return tuple(
            argument
            for option, value in given
            for item in (value if isinstance(value, list) else [value])
            for argument in (option, str(item))
        )


FILES = {
    "ca.pem": Path(certifi.where()).read_text(encoding="utf-8"),
    "empty": "",
    "lines": "one\ntwo\n",
    "non-ascii": "pässword\n",
    "secret": "s3cret\n",
}
"""Files that MISTAKES refer to. They must be in the directory of the configuration file."""

MISTAKES = (
    Case("two mistakes at once", "{interval: 5, probe: {seed: x}}"),
    Case("unknown key", "intervall: 5m"),
    Case("unknown key without a similar one", "web: {port: 80}"),
    Case("missing key", "targets: [{name: gpu-a}]"),
    Case("duration without unit", "interval: 300"),
    Case("not a duration", "interval: 5 minutes"),
    Case("duration too long", "interval: 9999999h"),
    Case("interval too short", "interval: 500ms"),
    Case("timeout of zero", "probe: {timeout: 0s}"),
    Case("not a number", "probe: {temperature: hot}"),
    Case("boolean for a number", "probe: {seed: true}"),
    Case("not a whole number", "probe: {seed: 1.5}"),
    Case("number too low", "max_concurrent_probes: 0"),
    Case("number too high", "probe: {seed: 4294967296}"),
    Case("number not positive", target("models: [{name: llama3.1, expected_decode_tokens_per_second: 0}]")),
    Case("number not finite", "probe: {temperature: .inf}"),
    Case("not a boolean", "probe: {reasoning: perhaps}"),
    Case("not text", "probe: {question: 42}"),
    Case("empty text", "probe: {question: ' '}"),
    Case("unpaired surrogate", 'probe: {question: "\\ud800"}'),
    Case("not one of the choices", "log: {level: warning}"),
    Case("not a section", "log: debug"),
    Case("not a list", "targets: {url: http://gpu-a:11434}"),
    Case("empty list", "targets: []"),
    Case("unlimited tokens", "probe: {num_predict: 0}"),
    Case("too few tokens", "probe: {num_predict: 8}"),
    Case("template without question", "probe: {template: Hello}"),
    Case("keep_alive of another type", "probe: {keep_alive: 0.5}"),
    Case("keep_alive of zero", "probe: {keep_alive: 0}"),
    Case("model name for a list", target("models: llama3.1")),
    Case("model that is not text", target("models: [3.1]")),
    Case("model listed twice", target("models: [llama3.1, llama3.1]")),
    Case("model in two spellings", target("models: [llama3.1, 'library/Llama3.1:latest']")),
    Case("cloud model", target("models: ['gpt-oss:120b-cloud']")),
    Case("target name used twice", "targets: [{url: 'http://a:1', name: x}, {url: 'http://b:1', name: x}]"),
    Case("URL that is not text", "targets: [{url: 11434}]"),
    Case("URL without scheme and port", "targets: [{url: gpu-a}]"),
    Case("URL with another scheme", "targets: [{url: 'ftp://gpu-a'}]"),
    Case("URL with a space", "targets: [{url: 'http://gpu a'}]"),
    Case("URL with a query", "targets: [{url: 'http://gpu-a/?x=1'}]"),
    Case("URL with @ after a slash", "targets: [{url: 'http://user:pass/word@gpu-a'}]"),
    Case("URL without user name", "targets: [{url: 'http://:password@gpu-a'}]"),
    Case("URL with an invalid port", "targets: [{url: 'http://gpu-a:99999'}]"),
    Case("URL without host", "targets: [{url: 'http://'}]"),
    Case("URL with an empty port", "targets: [{url: 'http://gpu-a:'}]"),
    Case("URL of the OpenAI-compatible API", "targets: [{url: 'http://gpu-a:11434/v1'}]"),
    Case("invalid IPv4 address", "targets: [{url: 'http://10.0.0.256:11434'}]"),
    Case("international host name that cannot be encoded", "targets: [{url: 'http://gpu\u2013a:11434'}]"),
    Case("invalid host name", "targets: [{url: 'http://gpu..a:1'}]"),
    Case("header name", target("headers: {'X Key': value}")),
    Case("reserved header", target("headers: {Content-Length: '1'}")),
    Case("header value", target("headers: {X-Key: käse}")),
    Case("header twice", target("headers: {X-Key: a, x-key: b}")),
    Case("two authorizations", target("bearer_token_file: secret", "http://user:password@gpu-a:11434")),
    Case("colon in user name", target("basic_auth: {username: 'user:password', password_file: secret}")),
    Case("missing secret file", target("bearer_token_file: missing")),
    Case("empty secret file", target("bearer_token_file: empty")),
    Case("secret file of two lines", target("bearer_token_file: lines")),
    Case("token that is not ASCII", target("bearer_token_file: non-ascii")),
    Case("secret file that is a directory", target("bearer_token_file: .")),
    Case("missing CA file", target("tls: {ca_file: missing}", "https://gpu-a")),
    Case("CA file without certificate", target("tls: {ca_file: empty}", "https://gpu-a")),
    Case("CA file without verification", target("tls: {ca_file: ca.pem, insecure_skip_verify: true}", "https://gpu-a")),
    Case("tls for http", target("tls: {insecure_skip_verify: true}")),
    Case("not a listen address", "web: {listen_address: 10434}"),
    Case("listen address without port", "web: {listen_address: localhost}"),
    Case("listen address with an invalid host name", "web: {listen_address: 'a..b:10434'}"),
    Case("listen address with a name in brackets", "web: {listen_address: '[localhost]:10434'}"),
    Case("listen address twice", "web: {listen_address: [':10434', ':10434']}"),
    Case("not a path", "web: {telemetry_path: metrics}"),
    Case("path of a health check", "web: {telemetry_path: /-/ready}"),
    Case("empty file", "# interval: 5m\n"),
    Case("duplicate key", "interval: 5m\ninterval: 6m\n"),
    Case("key that is not text", "1: one"),
    Case("tab", "web:\n\ttelemetry_path: /metrics\n"),
    Case("not YAML", "web: [telemetry_path"),
    Case("control character", "web: \x00"),
    Case("date that does not exist", "web: 2026-99-99"),
    Case("not key: value lines", "- interval"),
    Case("config_file in the file", "config_file: other.yml"),
    Case("variable that is not set", "targets: [{url: 'http://${GPU_HOST}:11434'}]"),
    Case("file that is a directory", flags={"config_file": "."}),
    Case("file that is a device", flags={"config_file": "/dev/null"}),
    Case("file that does not exist", flags={"config_file": "missing.yml"}),
    Case("bad flag", flags={"interval": "soon"}),
    Case("URL flag and targets", "targets: [{url: 'http://gpu-a:11434'}]", flags={"url": "http://gpu-b:11434"}),
    Case("bad variable", environ={"OLLAMA_PROBE_INTERVAL": "soon"}),
    Case("unknown variable", environ={"OLLAMA_PROBE_INTERVALL": "5m"}),
    Case("unknown variable without a similar one", environ={"OLLAMA_PROBE_X": "5m"}),
    Case("variable that is not JSON", environ={"OLLAMA_PROBE_TARGETS": "http://gpu-a:11434"}),
    Case("bad OLLAMA_HOST", environ={"OLLAMA_HOST": "ftp://gpu-a"}),
)
"""Each distinct error message once. All but the first give one line."""

WARNINGS = (
    Case("loopback URL without a name in a container", "targets: [{url: 'http://localhost:11434'}]", in_container=True),
    Case("no targets", "interval: 5m"),
    Case("URL without port", "targets: [{url: 'http://gpu-a'}]"),
    Case("one URL twice", "targets: [{url: 'http://a:1', name: a}, {url: 'http://a:1', name: b}]"),
    Case(
        "too few concurrent probes",
        "{interval: 6m, max_concurrent_probes: 1, probe: {num_predict: 9000},"
        " targets: [{url: 'http://a:1'}, {url: 'http://b:1'}, {url: 'http://c:1'}]}",
    ),
    Case("too many probes", "{interval: 1m, probe: {num_predict: 2000}, " + target("models: [a, b]") + "}"),
    Case("timeout too short", target("models: [{name: a, expected_decode_tokens_per_second: 2}]")),
    Case("interval outside of the rules", "{interval: 30s, " + target("name: a") + "}"),
    Case("load every installed model", target("models: installed, when_unloaded: load")),
)
"""Each distinct warning once."""
