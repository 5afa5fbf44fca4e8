"""`healthcheck`: its exit status, and that it imports the standard library alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry

from exporter.commands.healthcheck import main
from exporter.state.store import StateStore
from exporter.web.server import WebServer


async def check(url: str) -> int:
    """Return the exit status of a health check of this URL."""
    return await asyncio.to_thread(main, ["--url", url])


async def test_running_exporter_is_healthy(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """0 and no output, whatever proxy the environment names; 1 where the page is missing."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    web = WebServer(CollectorRegistry(), StateStore(), addresses=[("127.0.0.1", 0)], ready=lambda: True)
    [url] = await web.start()
    try:
        assert await check(f"{url}/-/healthy") == 0
        assert capsys.readouterr() == ("", "")
        assert await check(f"{url}/nowhere") == 1
        assert "404" in capsys.readouterr().err
    finally:
        await web.stop()


async def test_absent_exporter_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    """1, and the URL on standard error."""
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/-/healthy"
    assert await check(url) == 1
    assert capsys.readouterr().err.startswith(f"{url}: ")


async def test_something_else_may_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that does not speak HTTP, or an invalid URL: 1 and one line, not a traceback."""

    def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail ready\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        assert await check(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/") == 1
    assert await check("nonsense") == 1
    errors = capsys.readouterr().err
    assert errors.count("nonsense: ") == 1
    assert errors.count("http://127.0.0.1:") == 1


def test_imports_the_standard_library_alone() -> None:
    """It runs twice a minute, so it imports no third-party module and no event loop."""
    program = "import sys\nfrom exporter.__main__ import main\nstatus = main()\nprint(status, *sys.modules)"
    command = (sys.executable, "-c", program, "healthcheck", "--url", "http://127.0.0.1:9/")
    words = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()

    assert words[0] == "1"
    assert {"aiohttp", "asyncio", "pydantic", "prometheus_client", "langchain_core", "yaml"}.isdisjoint(words)
