"""What a target is sent: what its configuration names, and nothing of the environment."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from support.probing import model_plan, probing, target_plan

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel
from exporter.ollama.transport import LINE_BYTES_MAX, TargetAuth, TargetTransport

FAST = ScriptedModel(tokens_per_second=1000, load_seconds=0.01)


async def headers_seen(**target: Any) -> list[dict[str, str]]:
    """Probe once and return the headers of every request that the server got, names in lower case."""
    async with OllamaServer(ScriptedEngine([FAST])) as server, probing(server.url, **target) as prober:
        await prober.probe(model_plan())
        return [{name.lower(): value for name, value in request.headers.items()} for request in server.requests]


@pytest.fixture
def leaky_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what could leak: an API key of Ollama's cloud, proxies, a netrc."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://leaky:secret@127.0.0.1:9")
    monkeypatch.setenv("OLLAMA_API_KEY", "leaky-key")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.mark.usefixtures("leaky_environment")
async def test_nothing_of_the_environment_reaches_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cloud key, proxies and a netrc set, no request carries a credential, and none goes to the proxy."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login leaky password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))

    seen = await headers_seen()

    assert seen
    assert os.environ["OLLAMA_API_KEY"] == "leaky-key"
    for headers in seen:
        assert not {"authorization", "proxy-authorization", "cookie"} & headers.keys()
        assert "leaky" not in str(headers)
        assert headers["user-agent"].startswith("ollama-throughput-exporter/")
        assert headers["accept-encoding"] == "identity"


async def test_configured_headers_are_on_every_request() -> None:
    """Those of the chain as well as those of the look around it, a Host name among them."""
    seen = await headers_seen(headers={"X-Team": "gpu", "Host": "localhost:11434"})

    assert seen
    assert all(headers["x-team"] == "gpu" and headers["host"] == "localhost:11434" for headers in seen)


@pytest.mark.usefixtures("leaky_environment")
async def test_secret_files_are_read_anew_for_each_request(tmp_path: Path) -> None:
    """A rotated token is sent with the next request, without a reload."""
    token = tmp_path / "token"
    token.write_text("first\n")
    async with (
        OllamaServer(ScriptedEngine([FAST])) as server,
        probing(server.url, bearer_token_file=token) as prober,
    ):
        await prober.probe(model_plan())
        token.write_text("second\n")
        already = len(server.requests)
        await prober.probe(model_plan())

        sent = [request.headers["authorization"] for request in server.requests]
    assert set(sent[:already]) == {"Bearer first"}
    assert set(sent[already:]) == {"Bearer second"}


async def test_basic_credentials_come_from_the_configuration(tmp_path: Path) -> None:
    """A password from a file, or the one that stood in the URL."""
    password = tmp_path / "password"
    password.write_text("pässword\n")
    expected = "Basic " + base64.b64encode("user:pässword".encode()).decode()

    for target in ({"password_file": password}, {"password": "pässword"}):
        seen = await headers_seen(username="user", **target)
        assert {headers["authorization"] for headers in seen} == {expected}


async def serve(*routes: Any) -> tuple[web.AppRunner, str]:
    """Start a server with these routes and return it with its URL."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, "http://{}:{}".format(*runner.addresses[0])


async def test_cookies_and_redirects_are_not_followed() -> None:
    """A server's cookie is never sent back, and a redirect takes no question elsewhere."""
    cookies: list[str | None] = []
    elsewhere: list[str] = []

    async def version(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("cookie"))
        response = web.json_response({"version": "1"})
        response.set_cookie("session", "abc")
        return response

    async def redirect(_: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    async def other(request: web.Request) -> web.Response:
        elsewhere.append(request.path)
        return web.json_response({"models": []})

    runner, url = await serve(
        web.get("/api/version", version), web.get("/api/ps", redirect), web.get("/elsewhere", other)
    )
    async with probing(url) as prober:
        for _ in range(2):
            with pytest.raises(Exception, match="HTTP 302"):
                await prober.probe(model_plan())
    await runner.cleanup()

    assert cookies == [None, None]
    assert elsewhere == []


async def test_a_line_without_end_is_refused_and_long_bodies_of_short_lines_are_not() -> None:
    """Memory is bounded by the line, not by the stream."""

    async def body(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        piece = (b"x" * 2**16) if request.path == "/line" else (b"x" * (2**16 - 1) + b"\n")
        for _ in range(LINE_BYTES_MAX // 2**16 + 2):
            await response.write(piece)
        return response

    runner, url = await serve(web.get("/line", body), web.get("/lines", body))
    async with httpx.AsyncClient(transport=TargetTransport(target_plan(url)), base_url=url) as client:
        assert len((await client.get("/lines")).content) > LINE_BYTES_MAX
        with pytest.raises(httpx.RemoteProtocolError, match="a line of more than"):
            await client.get("/line")
    await runner.cleanup()


def test_every_secret_that_was_configured_or_sent_is_redacted(tmp_path: Path) -> None:
    """Header values, passwords and tokens, also in their encoded form."""
    password = tmp_path / "password"
    password.write_text("pw-secret")
    auth = TargetAuth(target_plan("http://h:1", username="u", password_file=password, headers={"X-Key": "hdr-secret"}))
    request = next(auth.auth_flow(httpx.Request("GET", "http://h:1/")))

    assert auth.redact("said pw-secret and hdr-secret") == "said <secret> and <secret>"
    assert auth.redact(request.headers["authorization"]) == "Basic <secret>"
