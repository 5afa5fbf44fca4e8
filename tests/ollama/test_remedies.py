"""Each common mistake has its reason, its detail and its remedy."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.certificates import CA, server_context
from support.probing import serving, target_plan
from support.raw_server import RawAnswer, RawServer

from exporter.errors import ProbeError, Reason
from exporter.ollama import transport
from exporter.ollama.client import ANSWER_SECONDS, OllamaClient

VERSION = {"/api/version": RawAnswer(body=b'{"version":"0.33.0"}')}


async def failure(url: str, **target: Any) -> ProbeError:
    """Return why a server's version cannot be read."""
    async with OllamaClient(target_plan(url, **target)) as client:
        with pytest.raises(ProbeError) as caught:
            await client.version()
    return caught.value


async def failure_of(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], path: str = "", **target: Any
) -> ProbeError:
    """Return why the version of a server with these answers cannot be read, at a path of its URL."""
    async with serving(answer) as url:
        return await failure(url + path, **target)


@contextlib.asynccontextmanager
async def tls_server(name: str = "server") -> AsyncIterator[RawServer]:
    """Run a server with TLS."""
    server = RawServer(VERSION)
    await server.start(server_context(name))
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture
def closed_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def full_backlog(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Return a port whose connection attempts get no answer, as where a firewall drops packets."""
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.3)
    with contextlib.ExitStack() as sockets:
        listening = sockets.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)  # noqa: FBT003 - the method has no keyword
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listening.getsockname())
        yield listening.getsockname()[1]


async def test_a_refused_connection_is_called_so(closed_port: int) -> None:
    """This is what people search for."""
    error = await failure(f"http://127.0.0.1:{closed_port}")

    assert error.reason is Reason.CONNECT
    assert error.detail == f"http://127.0.0.1:{closed_port}: connection refused"


async def test_a_dropped_connection_attempt_is_a_failure_to_connect(full_backlog: int) -> None:
    """It is not a timeout of the model, and no setting lengthens it."""
    error = await failure(f"http://127.0.0.1:{full_backlog}")

    assert error.reason is Reason.CONNECT
    assert "firewall" in error.remedy
    assert "timeout" not in error.remedy


def test_connecting_times_out_before_the_answer() -> None:
    """Otherwise a dropped connection attempt would be a `timeout`."""
    assert transport.CONNECT_SECONDS <= ANSWER_SECONDS - 1


async def test_a_name_that_does_not_resolve_is_told_from_a_server_that_does_not_answer() -> None:
    """The host name is wrong, not the firewall."""
    error = await failure("http://no-such-host.invalid:11434")

    assert error.reason is Reason.CONNECT
    assert "resolve" in error.detail
    assert "host name" in error.remedy


@pytest.mark.parametrize(
    ("path", "word"),
    [("/v1", "`/v1`"), ("/v1/", "`/v1`"), ("/api", "`/api`"), ("/x/v1/chat", "`/v1/chat`"), ("/ollama", "`/ollama`")],
)
async def test_a_path_that_is_not_ollamas_is_named(path: str, word: str) -> None:
    """The base URL of OpenAI's API ends in `/v1`, and is often copied."""

    async def answer(_: web.Request) -> web.Response:
        raise web.HTTPNotFound

    error = await failure_of(answer, path)

    assert error.reason is Reason.HTTP
    assert word in error.remedy


@pytest.mark.parametrize(("status", "body"), [(404, "404 page not found"), (200, "<html>Welcome</html>"), (405, "no")])
async def test_a_server_that_is_not_ollama_is_recognised(status: int, body: str) -> None:
    """The URL is wrong, or lacks the path prefix of a reverse proxy; Ollama's log shows nothing."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    error = await failure_of(answer)

    assert "base URL" in error.remedy
    assert "path" in error.remedy
    assert "log" not in error.remedy


@pytest.mark.parametrize(
    ("location", "base"),
    [
        ("https://ollama.example/api/version", "https://ollama.example"),
        ("/ollama/api/version", "/ollama"),
        ("https://login.example/?to=x", "https://login.example"),
    ],
)
async def test_the_target_of_a_redirect_is_named(location: str, base: str) -> None:
    """The remedy names the URL to write in `url`."""

    async def answer(_: web.Request) -> web.Response:
        raise web.HTTPPermanentRedirect(location)

    error = await failure_of(answer)

    assert error.reason is Reason.HTTP
    assert "308" in error.detail
    assert error.remedy.endswith(base)


@pytest.mark.parametrize("status", [401, 403])
async def test_rejected_credentials_are_told_from_missing_ones(status: int, tmp_path: Path) -> None:
    """With credentials configured, nothing has to be set: they are wrong."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    (tmp_path / "token").write_text("token-of-12")
    missing = await failure_of(answer)
    for target, setting in (
        ({"bearer_token_file": tmp_path / "token"}, "bearer_token_file"),
        ({"username": "u", "password_file": tmp_path / "token"}, "basic_auth"),
        ({"username": "u", "password": "p"}, "`url`"),
        ({"headers": {"X-Api-Key": "k"}}, "headers"),
    ):
        rejected = await failure_of(answer, **target)

        assert rejected.reason is missing.reason is Reason.DENIED
        assert "rejected" in rejected.remedy
        assert setting in rejected.remedy
    assert "rejected" not in missing.remedy
    assert "bearer_token_file" in missing.remedy


@pytest.mark.parametrize(
    ("name", "trusted", "word"),
    [("server", False, "ca_file"), ("expired", True, "expired"), ("other-host", True, "host name")],
)
async def test_each_problem_of_a_certificate_has_its_remedy(name: str, trusted: bool, word: str) -> None:
    """Another certificate authority does not help against an expired certificate."""
    async with tls_server(name) as server:
        error = await failure(server.url, ca_file=CA if trusted else None)

    assert error.reason is Reason.CONNECT
    assert "certificate" in error.detail
    assert word in error.remedy


async def test_https_to_a_port_without_tls_is_recognised() -> None:
    """The scheme is wrong, not the firewall."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"version": "0.33.0"})

    async with serving(answer) as url:
        error = await failure(url.replace("http:", "https:"))

    assert error.reason is Reason.CONNECT
    assert "`http://`" in error.remedy


@pytest.mark.parametrize(
    "answer",
    [
        RawAnswer(status=b"400 Bad Request", body=b"Client sent an HTTP request to an HTTPS server.\n"),
        RawAnswer(status=b"400 Bad Request", body=b"<title>400 The plain HTTP request was sent to HTTPS port</title>"),
        RawAnswer(cut=0),
    ],
)
async def test_http_to_a_port_with_tls_is_recognised(answer: RawAnswer) -> None:
    """What Go, nginx and other servers answer to plain HTTP."""
    async with RawServer({"/api/version": answer}) as server:
        error = await failure(server.url)

    assert "`https://`" in error.remedy


async def test_plain_http_to_a_real_tls_server_is_recognised() -> None:
    """OpenSSL closes the connection, with or without an alert."""
    async with tls_server() as server:
        error = await failure(server.url.replace("https:", "http:"))

    assert "`https://`" in error.remedy


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open no further file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    with contextlib.suppress(OSError):
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    try:
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://localhost:9", "http://some-host.invalid:9"])
async def test_a_lack_of_descriptors_is_our_own_failure(url: str) -> None:
    """Neither the server nor its name is at fault."""
    with no_descriptors():
        error = await failure(url)

    assert error.reason is Reason.INTERNAL
    assert "LimitNOFILE" in error.remedy


async def test_a_secret_that_cannot_be_opened_for_lack_of_descriptors_is_not_denied(tmp_path: Path) -> None:
    """The file's permissions are right."""
    (tmp_path / "token").write_text("token-of-12")

    with no_descriptors():
        error = await failure("http://127.0.0.1:9", bearer_token_file=tmp_path / "token")

    assert error.reason is Reason.INTERNAL
    assert "LimitNOFILE" in error.remedy
    assert os.strerror(errno.EMFILE) in error.detail


async def test_a_remedy_contains_no_secret() -> None:
    """A redirect may repeat the credentials that were sent."""

    async def answer(request: web.Request) -> web.Response:
        raise web.HTTPFound(f"https://ollama.example/{request.headers['x-key']}")

    error = await failure_of(answer, headers={"X-Key": "key-of-twelve"})

    assert "ollama.example" in error.remedy
    assert "key-of-twelve" not in str(error)
