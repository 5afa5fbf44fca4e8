"""Listening, stopping, and clients that do not behave."""

from __future__ import annotations

import asyncio
import socket
import threading

import httpx
import pytest
from support.readings import PLAN
from support.serving import Served

from exporter.errors import SettingsError
from exporter.plan import ModelKey


async def test_several_addresses(served: Served) -> None:
    """IPv4, IPv6, every interface and a name at once. Each URL answers; after stop none does."""
    server = served.server(("127.0.0.1", 0), ("::1", 0), ("", 0), ("localhost", 0))
    urls = await server.start()

    assert [url.rpartition(":")[0] for url in urls][:3] == ["http://127.0.0.1", "http://[::1]", "http://[::]"]
    both = urls[2].rpartition(":")[2]
    async with httpx.AsyncClient(trust_env=False) as client:
        for url in (urls[0], urls[1], f"http://127.0.0.1:{both}", f"http://[::1]:{both}", urls[3]):
            assert (await client.get(f"{url}/-/healthy")).status_code == 200
        await server.stop()
        for url in (*urls[:2], f"http://127.0.0.1:{both}", urls[3]):
            with pytest.raises(httpx.ConnectError):
                await client.get(f"{url}/-/healthy")


async def test_address_in_use(served: Served) -> None:
    """The error names the address and the flag, and nothing is left listening."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        port, free_port = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        server = served.server(("127.0.0.1", free_port), ("127.0.0.1", port))
        with pytest.raises(SettingsError, match=rf"127\.0\.0\.1:{port}\b.*--web\.listen-address"):
            await server.start()
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://127.0.0.1:{free_port}/-/healthy")


async def test_unknown_host(served: Served) -> None:
    """A host that does not resolve is a configuration error that names it."""
    with pytest.raises(SettingsError, match=r"nowhere\.invalid:1\b"):
        await served.server(("nowhere.invalid", 1)).start()


async def test_stop_does_not_wait_for_slow_clients(served: Served) -> None:
    """A client that does not read its response, and one that sends no request, are disconnected."""
    for model in range(2000):
        served.store.add_model(ModelKey("gpu-a", f"model {model}"), PLAN)
    server = served.server()
    [url] = await server.start()
    port = int(url.rpartition(":")[2])
    silent_reader, silent_writer = await asyncio.open_connection("127.0.0.1", port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await reader.read(1) == b"H"

    async with asyncio.timeout(10):
        await server.stop()
        assert await silent_reader.read() == b""
    for each in (silent_writer, writer):
        each.close()


async def test_stop_ends_the_threads(served: Served) -> None:
    """The threads that render scrapes end with the server."""
    server = served.server()
    [url] = await server.start()
    async with httpx.AsyncClient(trust_env=False) as client:
        await asyncio.gather(*(client.get(f"{url}/metrics") for _ in range(4)))
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("scrape")]
    assert threads

    await server.stop()

    for thread in threads:
        await asyncio.to_thread(thread.join)


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"GET / HTTP/1.1\r\nHost: \0\r\n\r\n"],
    ids=["TLS", "malformed header", "control character"],
)
async def test_bytes_that_are_not_http_are_refused_silently(
    served: Served, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    """What a port scanner sends is not an error of this program."""
    server = served.server()
    [url] = await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(sent)

    assert b" 400 " in (await reader.readline())
    writer.close()
    await server.stop()
    assert caplog.records == []
