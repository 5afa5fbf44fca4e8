"""`healthcheck` says whether an exporter is well, and imports nothing heavy for it."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry

from exporter.commands.healthcheck import main
from exporter.metrics.families import ProbeMetrics
from exporter.web.server import WebServer


async def check(url: str) -> int:
    """Return the status of a health check of this URL."""
    return await asyncio.to_thread(main, ["--url", url])


async def test_a_running_exporter_is_well(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """0 and no word, whatever proxy the environment names."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    web = WebServer(ProbeMetrics(CollectorRegistry()), addresses=[("127.0.0.1", 0)], ready=lambda: True)
    [url] = await web.start()
    try:
        assert await check(f"{url}/-/healthy") == 0
        assert capsys.readouterr() == ("", "")
        assert await check(f"{url}/nowhere") == 1
        assert "404" in capsys.readouterr().err
    finally:
        await web.stop()


async def test_an_absent_exporter_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    """1, with the address and the question to ask."""
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/-/healthy"
    assert await check(url) == 1
    assert capsys.readouterr().err.startswith(f"{url}: ")


async def test_what_answers_there_may_be_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that speaks no HTTP, or no URL at all: 1 and a line, no traceback."""

    def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail ready\r\n")
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        assert await check(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/") == 1
    assert await check("nonsense") == 1
    assert capsys.readouterr().err.count("is the exporter running there?") == 2


def test_it_imports_nothing_heavy() -> None:
    """It runs twice a minute: no third-party module, no event loop."""
    program = "import sys\nfrom exporter.__main__ import main\nstatus = main()\nprint(status, *sys.modules)"
    command = (sys.executable, "-c", program, "healthcheck", "--url", "http://127.0.0.1:9/")
    words = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()

    assert words[0] == "1"
    assert {"aiohttp", "asyncio", "pydantic", "prometheus_client", "langchain_core", "yaml"}.isdisjoint(words)
