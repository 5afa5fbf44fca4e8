"""The program starts on platforms that lack what only Linux, or only Unix, has."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator

import httpx

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel

GUARD_SECONDS = 60

WITHOUT_UNIX = """
import asyncio, builtins, io, os, signal, sys

def refuse(*_):
    raise NotImplementedError

def without_proc(function):
    def opened(file, *arguments, **options):
        if str(file).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", str(file))
        return function(file, *arguments, **options)
    return opened

del os.sched_getaffinity, signal.SIGHUP
asyncio.SelectorEventLoop.add_signal_handler = refuse
builtins.open = io.open = without_proc(io.open)
os.listdir, os.scandir, os.readlink = map(without_proc, (os.listdir, os.scandir, os.readlink))
from exporter.__main__ import main
sys.exit(main())
"""
"""Takes away what macOS or Windows do not have: processor affinity, SIGHUP, the loop's signal handlers, /proc."""


@contextlib.asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the program without the Unix calls; killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WITHOUT_UNIX, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        async with asyncio.timeout(GUARD_SECONDS):
            yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def read_until(process: asyncio.subprocess.Process, pattern: str) -> re.Match[str]:
    """Return the first match in the output; fail with the output if the program ends without it."""
    assert process.stdout is not None
    lines = []
    async for line in process.stdout:
        lines.append(line.decode())
        if match := re.search(pattern, lines[-1]):
            return match
    raise AssertionError("".join(lines))


async def test_run_serves_probes_and_stops() -> None:
    """The daemon listens, takes a reading, and SIGINT ends it with 0."""
    engine = ScriptedEngine([ScriptedModel(tokens_per_second=1000)])
    async with OllamaServer(engine) as server, httpx.AsyncClient(trust_env=False) as client:
        flags = ("--url", server.url, "--model", "llama3.1", "--web.listen-address", "127.0.0.1:0")
        async with program("run", *flags) as process:
            url = (await read_until(process, r"http://127\.0\.0\.1:\d+"))[0]
            await read_until(process, "probe succeeded")
            assert "ollama_probe_decode_tokens_per_second{" in (await client.get(f"{url}/metrics")).text
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0


async def test_probe_prints_a_reading() -> None:
    """A single probe prints its result and exits with 0."""
    engine = ScriptedEngine([ScriptedModel(tokens_per_second=1000)])
    async with (
        OllamaServer(engine) as server,
        program("probe", "--url", server.url, "--model", "llama3.1") as process,
    ):
        await read_until(process, "Decode rate")
        assert await process.wait() == 0


async def test_demo_starts() -> None:
    """The demo shows readings of its simulated GPU, and of the real model where that is installed."""
    async with program("demo", "--web.listen-address", "127.0.0.1:0") as process:
        await read_until(process, "Press Ctrl-C")
        await read_until(process, "demo-gpu llama3.1 .* tokens/s")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
