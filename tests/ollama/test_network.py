"""Name resolution and connection attempts."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import pytest
from support.probing import target_plan
from support.raw_server import RawAnswer, RawServer

from exporter.errors import ProbeError, Reason
from exporter.ollama import transport
from exporter.ollama.client import OllamaClient

VERSION = {"/api/version": RawAnswer(body=b'{"version":"0.33.0"}')}
TARGETS = 12
"""More than the threads of asyncio's pool on a machine with few cores."""


@pytest.fixture
def hanging_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Replace the system's resolver by one that never answers for `*.invalid`. Yield the names that it was asked."""
    release, asked = threading.Event(), []
    resolve = socket.getaddrinfo

    def hang(host: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(str(host))
        if str(host).endswith(".invalid"):
            release.wait(60)
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.3)
    yield asked
    release.set()


async def version(url: str) -> str | ProbeError:
    """Return the version of a server, or why there is none."""
    async with OllamaClient(target_plan(url)) as client:
        try:
            return await client.version()
        except ProbeError as error:
            return error


async def test_a_hanging_resolver_delays_no_other_target(hanging_resolver: list[str]) -> None:
    """The names that do not resolve are failures to connect; `localhost` is resolved meanwhile."""
    async with RawServer(VERSION) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        hanging = [asyncio.create_task(version(f"http://host-{number}.invalid")) for number in range(TARGETS)]
        await asyncio.sleep(0.1)
        started_at = perf_counter()
        assert await version(url) == "0.33.0"
        assert perf_counter() - started_at < 0.2

        for failure in await asyncio.gather(*hanging):
            assert isinstance(failure, ProbeError)
            assert failure.reason is Reason.CONNECT
            assert "resolved" in failure.detail
    assert len(hanging_resolver) == TARGETS + 1


async def test_a_hanging_resolver_costs_one_thread_per_target(hanging_resolver: list[str]) -> None:
    """Otherwise each check would leave another thread."""
    async with OllamaClient(target_plan("http://host.invalid")) as client:
        for _ in range(3):
            with pytest.raises(ProbeError):
                await client.version()

    assert hanging_resolver == ["host.invalid"]


def test_a_hanging_resolver_does_not_delay_the_end() -> None:
    """The program would wait for the threads of asyncio's pool."""
    program = (
        "import asyncio, socket, time\n"
        "from exporter.ollama import transport\n"
        "from exporter.ollama.client import OllamaClient\n"
        "from support.probing import target_plan\n"
        "transport.CONNECT_SECONDS = 0.2\n"
        "socket.getaddrinfo = lambda *_, **__: time.sleep(60)\n"
        "asyncio.run(OllamaClient(target_plan('http://host.invalid')).version())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, timeout=20, check=False
    )

    assert b"ProbeError: connect" in ended.stderr


async def test_further_addresses_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that refuses, or that does not answer, does not make the others unreachable."""
    async with RawServer(VERSION) as server:
        found = socket.getaddrinfo("127.0.0.1", 0, type=socket.SOCK_STREAM)[0][:4]
        for other in ("127.0.0.2", "::1"):
            addresses = [(*found, (other, 0)), (*found, ("127.0.0.1", 0))]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, result=addresses, **__: result)

            assert await version(server.url.replace("127.0.0.1", "two.example")) == "0.33.0"


async def test_if_no_address_accepts_the_refusal_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """That error is more specific than a missing route for one protocol."""
    found = socket.getaddrinfo("127.0.0.1", 0, type=socket.SOCK_STREAM)[0][:4]
    addresses = [(*found, ("2001:db8::1", 0)), (*found, ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)

    failure = await version("http://two.example:9")

    assert isinstance(failure, ProbeError)
    assert "connection refused" in failure.detail
