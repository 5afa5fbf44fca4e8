"""Limits on connections: their number, the time for a request's head, for reading a response, and between requests."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

import pytest
from prometheus_client.metrics_core import Metric
from support.readings import PLAN
from support.serving import Served

from exporter.plan import ModelKey
from exporter.web.connections import ConnectionLimits

LIMITS = ConnectionLimits(connections=4, head_seconds=0.4, write_seconds=0.4, idle_seconds=30)
GUARD_SECONDS = 10
GET = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Clients:
    """Connects to a running server, and closes all connections at the end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self, sent: bytes = b"", limit: int = 2**16) -> Client:
        """Return a new connection on which this has been sent."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**15)  # the kernel does not read ahead
        client.connect(("127.0.0.1", self._port))
        reader, writer = await asyncio.open_connection(sock=client, limit=limit)
        self._writers.append(writer)
        writer.write(sent)
        return reader, writer

    def close(self) -> None:
        """Close all connections."""
        for writer in self._writers:
            writer.close()


@contextlib.asynccontextmanager
async def serving(served: Served, limits: ConnectionLimits = LIMITS) -> AsyncIterator[Clients]:
    """Run a server with these limits and yield clients of it."""
    server = served.server(limits=limits)
    [url] = await server.start()
    clients = Clients(int(url.rpartition(":")[2]))
    try:
        yield clients
    finally:
        clients.close()
        await server.stop()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the next response."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), GUARD_SECONDS)).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    body = await asyncio.wait_for(reader.readexactly(int(headers.get("content-length", "0"))), GUARD_SECONDS)
    return int(head[0].split()[1]), headers, body


async def seconds_until_closed(reader: asyncio.StreamReader) -> float:
    """Return how long the server takes from now on to close a connection."""
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(GUARD_SECONDS):
            while await reader.read(2**16):
                pass
    return time.monotonic() - began


async def drip(writer: asyncio.StreamWriter) -> None:
    """Send a byte again and again, until the connection is closed."""
    with contextlib.suppress(ConnectionError):
        while not writer.is_closing():
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.05)


def add_models(served: Served, count: int) -> None:
    """Make the exposition large."""
    for number in range(count):
        served.store.add_model(ModelKey("gpu-a", f"model {number}"), PLAN)


@pytest.mark.parametrize("sent", [b"", b"GET /metr", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
@pytest.mark.parametrize("dripping", [False, True])
async def test_request_that_is_not_completed(served: Served, sent: bytes, dripping: bool) -> None:
    """A connection without a complete head is closed at the limit, whether or not further bytes come."""
    async with serving(served) as clients:
        reader, writer = await clients.open(sent)
        dripped = asyncio.create_task(drip(writer)) if dripping and sent else None

        assert 0.3 < await seconds_until_closed(reader) < 2
        if dripped is not None:
            await dripped


async def test_second_request_that_is_not_completed(served: Served) -> None:
    """The limit holds for every request of a connection, not for the pause between two."""
    async with serving(served) as clients:
        reader, writer = await clients.open(GET)
        assert (await answer(reader))[0] == 200
        await asyncio.sleep(2 * LIMITS.head_seconds)
        writer.write(GET)
        assert (await answer(reader))[0] == 200

        writer.write(GET[:20])
        assert 0.3 < await seconds_until_closed(reader) < 2


async def test_idle_connection(served: Served) -> None:
    """A connection without a further request is closed after the time for idle ones."""
    async with serving(served, replace(LIMITS, idle_seconds=0.8)) as clients:
        reader, _ = await clients.open(GET)
        assert (await answer(reader))[0] == 200

        assert 0.7 < await seconds_until_closed(reader) < 3


async def test_response_that_is_not_read(served: Served) -> None:
    """A client that reads nothing is disconnected; the response is not waiting in memory until then as a copy."""
    add_models(served, 2000)
    async with serving(served) as clients:
        reader, _ = await clients.open(SCRAPE, limit=1)
        assert await reader.read(1) == b"H"
        await asyncio.sleep(LIMITS.write_seconds * 2)

        received = b""
        with contextlib.suppress(ConnectionError):
            while data := await asyncio.wait_for(reader.read(2**16), GUARD_SECONDS):
                received += data
        assert len(received) < len(served.text()) - 2**17


async def test_response_that_is_read_slowly(served: Served) -> None:
    """A client that reads steadily gets the whole response, however long that takes."""
    add_models(served, 2000)
    expected = len(served.text())
    async with serving(served, replace(LIMITS, write_seconds=0.3)) as clients:
        reader, _ = await clients.open(SCRAPE, limit=2**15)
        head = await reader.readuntil(b"\r\n\r\n")
        assert f"Content-Length: {expected}".encode() in head
        received, began = 0, time.monotonic()
        while received < expected:
            received += len(await reader.readexactly(min(2**15, expected - received)))
            await asyncio.sleep(0.04)

    assert time.monotonic() - began > 0.9


async def test_new_connections_replace_those_that_wait_longest(served: Served) -> None:
    """At the limit, first connections without a request give way, then idle ones; each is counted."""
    async with serving(served, replace(LIMITS, head_seconds=30)) as clients:
        idle, _ = await clients.open(GET)
        assert (await answer(idle))[0] == 200
        silent = [(await clients.open())[0] for _ in range(3)]
        await asyncio.sleep(0.05)

        for closed in [*silent, idle]:
            new, _ = await clients.open(GET)
            assert (await answer(new))[0] == 200
            assert await seconds_until_closed(closed) < 1
        assert served.store.connections_rejected == 4
        assert served.values("http_connections_rejected_total") == [4]


class Blocked:
    """A collector that blocks a scrape until it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def describe(self) -> Iterable[Metric]:
        """Describe nothing."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Wait."""
        self.release.wait(GUARD_SECONDS)
        return []


async def test_new_connection_is_refused_while_all_are_busy(served: Served) -> None:
    """Requests in progress are not cut off. The refusal is a valid response and counted."""
    blocked = Blocked()
    served.registry.register(blocked)
    async with serving(served) as clients:
        busy = [(await clients.open(SCRAPE))[0] for _ in range(4)]
        await asyncio.sleep(0.1)

        refused, _ = await clients.open()  # a request that is not read would reset the connection
        status, headers, _ = await answer(refused)
        blocked.release.set()

        assert (status, headers["connection"]) == (503, "close")
        assert [(await answer(reader))[0] for reader in busy] == [200] * 4
        assert served.store.connections_rejected == 1


async def test_clients_that_do_not_read_give_way(served: Served) -> None:
    """Connections whose clients have stopped reading are replaced before their time limit."""
    add_models(served, 2000)
    async with serving(served, replace(LIMITS, write_seconds=30)) as clients:
        for _ in range(4):
            reader, _ = await clients.open(SCRAPE, limit=1)
            assert await reader.read(1) == b"H"
        await asyncio.sleep(0.3)

        new, _ = await clients.open(GET)
        assert (await answer(new))[0] == 200


@pytest.mark.parametrize(
    "framing", [b"Content-Length: %d\r\n", b"Transfer-Encoding: chunked\r\n"], ids=["length", "chunked"]
)
async def test_request_body_is_not_unpacked(served: Served, monkeypatch: pytest.MonkeyPatch, framing: bytes) -> None:
    """A POST is refused with 405 without its body, compressed or not, and the connection is closed soon after."""
    body = gzip.compress(bytes(2**24))
    unpacked: list[object] = []
    monkeypatch.setattr("aiohttp.http_parser.DeflateBuffer.feed_data", lambda *_: unpacked.append(1))
    async with serving(served) as clients:
        head = b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
        if b"%d" in framing:
            reader, _ = await clients.open(head + framing % (2**30) + b"\r\n" + body)
        else:
            reader, _ = await clients.open(head + framing + b"\r\n%x\r\n" % len(body) + body)

        assert (await answer(reader))[0] == 405
        assert await seconds_until_closed(reader) < 3
        assert unpacked == []


@pytest.mark.parametrize("sent", [b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"])
async def test_refusals_of_the_server_itself_are_secured(served: Served, sent: bytes) -> None:
    """Its own 400 carries the security headers and does not name aiohttp or a version."""
    async with serving(served) as clients:
        reader, _ = await clients.open(sent)
        status, headers, _ = await answer(reader)

    assert status == 400
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert not any(word in headers["server"].lower() for word in ("aiohttp", "python", "/"))
