"""`healthcheck`: its exit status, and that it imports the standard library alone."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from support.probing import serving

from exporter.commands.healthcheck import main
from exporter.state.store import StateStore
from exporter.web.health import HEALTHY
from exporter.web.server import WebServer


async def check(*arguments: str) -> int:
    """Return the exit status of a health check with these flags."""
    return await asyncio.to_thread(main, arguments)


@contextlib.asynccontextmanager
async def exporter_at(host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Yield the URL of a running exporter's web server."""
    server = WebServer(CollectorRegistry(), StateStore(), addresses=[(host, 0)], ready=lambda: True)
    [url] = await server.start()
    try:
        yield url
    finally:
        await server.stop()


async def test_running_exporter_is_healthy(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """0 and no output, whatever proxy the environment names; 1 where the page is missing."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with exporter_at() as url:
        assert await check("--url", f"{url}/-/healthy") == 0
        assert capsys.readouterr() == ("", "")
        assert await check("--url", f"{url}/nowhere") == 1
        assert "404" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", ""])
async def test_address_is_that_of_the_configuration(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flag over environment over file, as in `run`; the first of several addresses is checked."""
    wrong, variable = "127.0.0.1:9", "OLLAMA_PROBE_WEB__LISTEN_ADDRESS"
    config_file = tmp_path / "config.yml"
    async with exporter_at() as url:
        right = f"{host}:{url.rpartition(':')[2]}"
        assert await check("--web.listen-address", right) == 0
        config_file.write_text(f"web: {{listen_address: ['{right}', '{wrong}']}}")
        assert await check("--config.file", str(config_file)) == 0
        monkeypatch.setenv("ollama_probe_config_file", str(config_file))
        assert await check() == 0
        monkeypatch.setenv(variable, wrong)
        assert await check("--config.file", str(config_file)) == 1
        monkeypatch.setenv(variable, f"{right}, {wrong}")
        assert await check() == 0
        assert await check("--web.listen-address", wrong) == 1
        monkeypatch.delenv(variable)
        capsys.readouterr()
        config_file.write_text("intervall: 5m")
        assert await check() == 1
        assert "intervall" in capsys.readouterr().err


@pytest.mark.parametrize("body", ["", "healthy", "<html>", HEALTHY * 2])
async def test_another_program_on_the_port_is_not_healthy(body: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that answers 200 without this program's text is not the exporter."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body)

    async with serving(answer) as url:
        assert await check("--url", f"{url}/-/healthy") == 1
    assert "another program" in capsys.readouterr().err


async def test_absent_exporter_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    """1, and the URL on standard error."""
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/-/healthy"
    assert await check("--url", url) == 1
    assert capsys.readouterr().err.startswith(f"{url}: ")


async def test_something_else_may_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that does not speak HTTP, or an invalid URL: 1 and one line, not a traceback."""

    def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail ready\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        assert await check("--url", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/") == 1
    assert await check("--url", "nonsense") == 1
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
