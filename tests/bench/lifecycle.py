"""How soon the daemon answers `/metrics` after its start, and how soon it ends when told, whatever it is doing.

Run `python tests/bench/lifecycle.py [runs]`. Bytecode is written as it is for an installed program, whatever
PYTHONDONTWRITEBYTECODE says, and the first start is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.benching import cpu_seconds, line, model, title
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine

from exporter.embedded.protocol import OllamaServer

STARTING_SECONDS = 60
STATES = {
    "streaming": None,
    "stuck before its first token": FaultKind.STALL_BEFORE_FIRST_TOKEN,
    "stuck in the middle": FaultKind.STALL_IN_THE_MIDDLE,
    "stuck loading": FaultKind.LOAD_FOREVER,
}


@contextlib.asynccontextmanager
async def daemon(folder: Path, url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int, float]]:
    """Run the daemon on one target; yield its process, its port, and when it was started."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    target = {"name": "t", "url": url, "models": ["llama3.1"], "num_predict": 10_000}
    config_file = folder / "config.yml"
    config_file.write_text(yaml.safe_dump({"targets": [target], "web": {"listen_address": [f"127.0.0.1:{port}"]}}))
    command = (sys.executable, "-m", "exporter", "--config.file", str(config_file), "--log.level", "error")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*command, env=environ)
    try:
        yield process, port, began
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def answered(port: int) -> None:
    """Wait for the first whole answer of `/metrics`."""
    async with asyncio.timeout(STARTING_SECONDS):
        while True:
            with contextlib.suppress(ConnectionError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
                answer = await reader.read()
                writer.close()
                assert answer.startswith(b"HTTP/1.0 200") and b"ollama_probe_runs_total" in answer, answer[:200]  # noqa: PT018
                return
            await asyncio.sleep(0.005)


async def start(folder: Path) -> tuple[float, float]:
    """Return the seconds from the start of the process to its first answer, and its CPU seconds until then."""
    async with daemon(folder, "http://127.0.0.1:9") as (process, port, began):
        await answered(port)
        return time.perf_counter() - began, cpu_seconds(process.pid)


async def end(folder: Path, fault: FaultKind | None) -> tuple[float, float, int]:
    """Return the seconds from SIGTERM to the process's end, those to the connection's, and the exit status."""
    engine = FaultyEngine([model(20)])
    async with OllamaServer(engine) as server:
        if fault:
            engine.inject(Fault(fault))
        async with daemon(folder, server.url) as (process, _, _):
            wanted = 1 if fault is FaultKind.LOAD_FOREVER else 2  # the first request loads
            async with asyncio.timeout(STARTING_SECONDS):
                while sum(request.path == "/api/generate" for request in server.requests) < wanted:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(1)
            assert server.open_connections
            began = time.perf_counter()
            process.send_signal(signal.SIGTERM)
            closed: float | None = None
            while process.returncode is None or closed is None:
                if closed is None and not server.open_connections:
                    closed = time.perf_counter() - began
                if process.returncode is None:
                    ended = time.perf_counter() - began
                await asyncio.sleep(0.002)
    return ended, closed, process.returncode


async def main(runs: int) -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await start(folder)
        title(f"From the start of the process to its first answer, median of {runs}")
        seconds, cpu = zip(*[await start(folder) for _ in range(runs)], strict=True)
        line("/metrics answered", seconds, " s", 1, f"{median(cpu):.2f} s of CPU")
        title("From SIGTERM, with a probe in flight")
        for state, fault in STATES.items():
            found = [await end(folder, fault) for _ in range(runs)]
            statuses = {status for _, _, status in found}
            line(f"{state}: ended", [ended for ended, _, _ in found], " s", 2, f"exit {statuses}")
            line(f"{state}: connection closed", [closed for _, closed, _ in found], " s", 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=5)
    asyncio.run(main(parser.parse_args().runs))
