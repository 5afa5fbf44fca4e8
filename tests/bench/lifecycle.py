"""How long the daemon takes to answer `/metrics` after its start, and to end on SIGTERM during a probe.

Run `python tests/bench/lifecycle.py [runs]`. Bytecode is cached as it is for an installed program, whatever the value
of PYTHONDONTWRITEBYTECODE, and the first start is not counted.
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
from support.benching import cpu_seconds, print_figure, print_title, scripted_model
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine

from exporter.embedded.protocol import OllamaServer

START_GUARD_SECONDS = 60
STATES = {
    "streaming": None,
    "no first token": FaultKind.STALL_BEFORE_FIRST_TOKEN,
    "stalled in the middle": FaultKind.STALL_IN_THE_MIDDLE,
    "loading": FaultKind.LOAD_FOREVER,
}


@contextlib.asynccontextmanager
async def daemon(folder: Path, url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int, float]]:
    """Run the daemon with one target, and yield its process, its port and the time of its start."""
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


async def wait_for_metrics(port: int) -> None:
    """Wait for the first complete response of `/metrics`."""
    async with asyncio.timeout(START_GUARD_SECONDS):
        while True:
            with contextlib.suppress(ConnectionError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
                response = await reader.read()
                writer.close()
                assert response.startswith(b"HTTP/1.0 200") and b"ollama_probe_runs_total" in response, response[:200]  # noqa: PT018
                return
            await asyncio.sleep(0.005)


async def start(folder: Path) -> tuple[float, float]:
    """Return the seconds from the start of the process to its first response, and its CPU seconds until then."""
    async with daemon(folder, "http://127.0.0.1:9") as (process, port, began):
        await wait_for_metrics(port)
        return time.perf_counter() - began, cpu_seconds(process.pid)


async def end(folder: Path, fault: FaultKind | None) -> tuple[float, float, int]:
    """Return the seconds from SIGTERM to the end of the process and of its connection, and the exit status."""
    engine = FaultyEngine([scripted_model(20)])
    async with OllamaServer(engine) as server:
        if fault:
            engine.inject(Fault(fault))
        async with daemon(folder, server.url) as (process, _, _):
            wanted = 1 if fault is FaultKind.LOAD_FOREVER else 2  # the first request loads
            async with asyncio.timeout(START_GUARD_SECONDS):
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
        print_title(f"From the start of the process to its first response, median of {runs}")
        seconds, cpu = zip(*[await start(folder) for _ in range(runs)], strict=True)
        print_figure("/metrics answered", seconds, " s", 1, f"{median(cpu):.2f} s of CPU")
        print_title("From SIGTERM during a probe")
        for state, fault in STATES.items():
            found = [await end(folder, fault) for _ in range(runs)]
            statuses = {status for _, _, status in found}
            print_figure(f"{state}: ended", [ended for ended, _, _ in found], " s", 2, f"exit {statuses}")
            print_figure(f"{state}: connection closed", [closed for _, closed, _ in found], " s", 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=5)
    asyncio.run(main(parser.parse_args().runs))
