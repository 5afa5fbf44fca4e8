"""A daemon whose standard error does not take what it logs: it answers, probes and stops as usual."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml
from support.daemons import START_GUARD_SECONDS, Running, target

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine

STOP_SECONDS = 2.0
LONGEST_SECONDS = 1.0


@contextlib.contextmanager
def full_pipe() -> Iterator[int]:
    """Yield a pipe that is full and that nothing reads."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, bytes(4096))
    yield writer
    os.close(reader)
    os.close(writer)


@contextlib.contextmanager
def pipe_without_reader() -> Iterator[int]:
    """Yield a pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@contextlib.contextmanager
def full_disk() -> Iterator[int]:
    """Yield a file on a full disk."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


@contextlib.contextmanager
def closed() -> Iterator[None]:
    """Yield no descriptor."""
    yield None


@contextlib.asynccontextmanager
async def running_daemon(folder: Path, server: OllamaServer, stderr: int | None) -> AsyncIterator[Running]:
    """Run the daemon, with standard error closed or as given, and wait until it has probed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config_file = folder / "config.yml"
    config = {"web": {"listen_address": [f"127.0.0.1:{port}"]}, "interval": "1s", "targets": [target(server)]}
    config_file.write_text(yaml.safe_dump(config))
    arguments = [sys.executable, "-m", "exporter", "--config.file", str(config_file), "--log.level", "debug"]
    if stderr is None:
        arguments = ["sh", "-c", 'exec "$@" 2>&-', "sh", *arguments]
    process = await asyncio.create_subprocess_exec(*arguments, stderr=stderr)
    running = Running(process, config_file, f"http://127.0.0.1:{port}")
    try:
        async with asyncio.timeout(START_GUARD_SECONDS):
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                assert process.returncode is None
                await asyncio.sleep(0.05)
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("stderr", [full_pipe, pipe_without_reader, full_disk, closed])
async def test_standard_error_that_takes_nothing(
    tmp_path: Path, stderr: type[contextlib.AbstractContextManager[int | None]]
) -> None:
    """Probes go on, `/metrics` is answered quickly, dropped messages are counted, and SIGTERM ends the daemon."""
    async with OllamaServer(ScriptedEngine()) as server:
        with stderr() as descriptor:
            async with running_daemon(tmp_path, server, descriptor) as running:
                await running.wait_until("success", 1, target="t")
                probes = await running.value("runs_total") or 0
                longest = 0.0
                async with asyncio.timeout(START_GUARD_SECONDS):
                    while (await running.value("runs_total") or 0) < probes + 3:
                        began = time.monotonic()
                        await running.scrape()
                        longest = max(longest, time.monotonic() - began)
                        await asyncio.sleep(0.02)
                if stderr is not full_pipe:  # its lines wait in the queue, which is not full yet
                    assert (await running.value("log_messages_dropped_total") or 0) > 3
                began = time.monotonic()
                assert await running.end() == 0
                ended = time.monotonic() - began

    print(f"\n{stderr.__name__}: longest answer {longest * 1000:.0f} ms, stopped in {ended:.2f} s")  # noqa: T201 - the figure is a result
    assert longest < LONGEST_SECONDS
    assert ended < STOP_SECONDS


async def test_messages_are_complete_after_a_stop(tmp_path: Path) -> None:
    """What is logged last, while the daemon stops, is written before the process ends."""
    log_file = tmp_path / "log"
    async with OllamaServer(ScriptedEngine()) as server:
        with log_file.open("wb") as stream:
            async with running_daemon(tmp_path, server, stream.fileno()) as running:
                await running.wait_until("success", 1, target="t")
                assert await running.value("log_messages_dropped_total") == 0
                assert await running.end() == 0

    lines = log_file.read_text().splitlines()
    assert "msg=stopped" in lines[-1]
    assert all(line.startswith("ts=") for line in lines)
