"""Requests carry the configured headers and credentials, and none from the environment."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.probing import model_plan, probing, target_plan

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel
from exporter.errors import ProbeError, Reason
from exporter.ollama import auth as auth_module
from exporter.ollama.auth import TargetAuth

FAST = ScriptedModel(tokens_per_second=1000, load_seconds=0.01)


async def headers_sent(**target: Any) -> list[dict[str, str]]:
    """Probe once and return the headers of every request that the server received, with names in lower case."""
    async with OllamaServer(ScriptedEngine([FAST])) as server, probing(server.url, **target) as prober:
        await prober.probe(model_plan())
        assert {request.path for request in server.requests} > {"/api/generate", "/api/ps"}
        return [{name.lower(): value for name, value in request.headers.items()} for request in server.requests]


async def first_request(**target: Any) -> tuple[TargetAuth, httpx.Request]:
    """Return a target's auth and a request that it was applied to."""
    auth = TargetAuth(target_plan("http://h:1", **target))
    return auth, await anext(auth.async_auth_flow(httpx.Request("GET", "http://h:1/")))


@pytest.fixture
def leaky_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what libraries would send by themselves: an API key of Ollama's cloud, and proxies with credentials."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://leaky:secret@127.0.0.1:9")
    monkeypatch.setenv("OLLAMA_API_KEY", "leaky-key")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.mark.usefixtures("leaky_environment")
async def test_nothing_of_the_environment_reaches_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cloud key, proxies and a netrc, no request carries a credential and none goes to the proxy."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login leaky password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))

    sent = await headers_sent()

    assert os.environ["OLLAMA_API_KEY"] == "leaky-key"
    for headers in sent:
        assert not {"authorization", "proxy-authorization", "cookie"} & headers.keys()
        assert "leaky" not in str(headers)
        assert headers["user-agent"].startswith("ollama-throughput-exporter/")
        assert headers["accept-encoding"] == "identity"


async def test_configured_headers_are_on_every_request() -> None:
    """Both clients send them, and a configured Host replaces the default one."""
    sent = await headers_sent(headers={"X-Team": "gpu", "Host": "localhost:11434"})

    assert {(headers["x-team"], headers["host"]) for headers in sent} == {("gpu", "localhost:11434")}


@pytest.mark.usefixtures("leaky_environment")
async def test_secret_files_are_read_again_for_each_request(tmp_path: Path) -> None:
    """A rotated token is sent with the next request, without a reload."""
    token = tmp_path / "token"
    token.write_text("first\n")
    async with (
        OllamaServer(ScriptedEngine([FAST])) as server,
        probing(server.url, bearer_token_file=token) as prober,
    ):
        await prober.probe(model_plan())
        token.write_text("second\n")
        before = len(server.requests)
        await prober.probe(model_plan())

        sent = [request.headers["authorization"] for request in server.requests]
    assert set(sent[:before]) == {"Bearer first"}
    assert set(sent[before:]) == {"Bearer second"}


async def test_basic_credentials_come_from_the_configuration(tmp_path: Path) -> None:
    """The password is that of the file, or that of the URL."""
    password = tmp_path / "password"
    password.write_text("pässword\n")
    expected = "Basic " + base64.b64encode("user:pässword".encode()).decode()

    for target in ({"password_file": password}, {"password": "pässword"}):
        sent = await headers_sent(username="user", **target)
        assert {headers["authorization"] for headers in sent} == {expected}


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"\xff\xfe", b"x" * 2**17])
async def test_a_secret_file_that_cannot_be_used_is_denied_and_named(content: bytes | None, tmp_path: Path) -> None:
    """The detail names the file, and the remedy is about the file and not about the server."""
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)

    with pytest.raises(ProbeError) as caught:
        await first_request(bearer_token_file=token)

    assert caught.value.reason is Reason.DENIED
    assert str(token) in caught.value.detail
    assert "file" in caught.value.remedy


@pytest.mark.parametrize("kind", ["fifo", "directory"])
async def test_a_secret_that_is_not_a_regular_file_is_denied_at_once(kind: str, tmp_path: Path) -> None:
    """Reading a FIFO without a writer would never end."""
    token = tmp_path / "token"
    os.mkfifo(token) if kind == "fifo" else token.mkdir()

    with pytest.raises(ProbeError) as caught:
        await asyncio.wait_for(first_request(bearer_token_file=token), 2)

    assert caught.value.reason is Reason.DENIED
    assert str(token) in caught.value.detail


async def test_a_secret_file_that_hangs_does_not_stop_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example on a network file system whose server is down. All requests share one thread that reads it."""
    release, threads = threading.Event(), []

    def hang(_: Path) -> str:
        threads.append(threading.current_thread())
        release.wait(20)
        return "token-of-12"

    monkeypatch.setattr(auth_module, "read_token", hang)
    monkeypatch.setattr(auth_module, "READ_SECONDS", 0.1)
    auth = TargetAuth(target_plan("http://h:1", bearer_token_file=Path("token")))
    for _ in range(2):
        with pytest.raises(ProbeError) as caught:
            await anext(auth.async_auth_flow(httpx.Request("GET", "http://h:1/")))
        assert caught.value.reason is Reason.DENIED
    release.set()

    assert len(threads) == 1


async def test_every_secret_that_was_configured_or_sent_is_redacted(tmp_path: Path) -> None:
    """Header values, passwords and tokens, in their encoded form as well."""
    password = tmp_path / "password"
    password.write_text("pw-secret")

    auth, request = await first_request(username="u-name", password_file=password, headers={"X-Key": "hdr-secret"})

    assert auth.redact("said pw-secret and hdr-secret") == "said <secret> and <secret>"
    assert auth.redact(request.headers["authorization"]) == "Basic <secret>"


async def test_a_rotated_secret_stays_redacted(tmp_path: Path) -> None:
    """An error may quote a token that has been replaced since."""
    token = tmp_path / "token"
    token.write_text("token-one")
    auth, request = await first_request(bearer_token_file=token)
    token.write_text("token-two")
    await anext(auth.async_auth_flow(request))

    assert auth.redact("token-one token-two") == "<secret> <secret>"
