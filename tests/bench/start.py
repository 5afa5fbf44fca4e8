"""How fast `/metrics` answers in a large installation, from the start of the process: 200 targets x 5 models.

One scripted server in another process serves all targets, and probes run meanwhile. `/metrics` is requested again as
soon as it has answered, at most ten times a second. Run `python tests/bench/start.py [seconds] [targets]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.benching import resident_mb, scripted_server
from support.programs import free_port

from exporter.embedded.scripted import ScriptedModel

MODELS = 5
PERIOD_SECONDS = 0.1


async def get(session: aiohttp.ClientSession, path: str) -> tuple[int, bytes]:
    """Return a response's status and body; status 0 if there is none yet."""
    with contextlib.suppress(aiohttp.ClientError):
        async with session.get(path) as response:
            return response.status, await response.read()
    return 0, b""


async def watch(url: str, process: asyncio.subprocess.Process, seconds: float) -> None:
    """Scrape a process that was just started, and print the figures."""
    start, first, ready, durations, body = time.perf_counter(), 0.0, 0.0, [], b""
    async with aiohttp.ClientSession(url) as session:
        while not first or time.perf_counter() < start + first + seconds:
            began = time.perf_counter()
            status, body = await get(session, "/metrics")
            now = time.perf_counter()
            if status == 0:
                await asyncio.sleep(0.01)
                continue
            first = first or now - start
            durations.append(now - began)
            if not ready and (await get(session, "/-/ready"))[0] == 200:
                ready = time.perf_counter() - start
            await asyncio.sleep(max(0.0, began + PERIOD_SECONDS - time.perf_counter()))
    lines = body.decode().splitlines()
    runs = sum(float(line.split()[-1]) for line in lines if line.startswith("ollama_probe_runs_total{"))
    cuts = statistics.quantiles(durations, n=100)
    resident = resident_mb(process.pid)
    print(f"{sum(not line.startswith('#') for line in lines)} series in {len(body) / 2**20:.1f} MiB, {runs:.0f} runs")
    print(f"/metrics first answered after {first:.2f} s, ready after {ready:.2f} s")
    print(
        f"{len(durations)} scrapes: p50 {cuts[49] * 1000:.1f}   p90 {cuts[89] * 1000:.1f}   p99 {cuts[98] * 1000:.1f}"
        f"   max {max(durations) * 1000:.1f} ms"
    )
    print(f"resident memory {resident:.0f} MB")


async def main(seconds: float, targets: int) -> None:
    """Run the server and the exporter."""
    models = [ScriptedModel(f"model-{number}", tokens_per_second=200, load_seconds=0) for number in range(MODELS)]
    url = f"http://127.0.0.1:{free_port()}"
    with scripted_server(models, num_parallel=8) as server_url:
        names = [model.name for model in models]
        config = {
            "web": {"listen_address": [url.removeprefix("http://")]},
            "log": {"level": "error"},
            "probe": {"num_predict": 64, "when_unloaded": "load"},
            "targets": [{"name": f"gpu-{number}", "url": server_url, "models": names} for number in range(targets)],
        }
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "config.yml"
            file.write_text(yaml.safe_dump(config))
            print(f"{targets} targets x {MODELS} models, scraped for {seconds:g} s")
            command = (sys.executable, "-m", "exporter", "--config.file", str(file))
            process = await asyncio.create_subprocess_exec(*command)
            try:
                await watch(url, process, seconds)
            finally:
                process.terminate()
                began = time.perf_counter()
                status = await process.wait()
                print(f"stopped with {status} after {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=20)
    parser.add_argument("targets", nargs="?", type=int, default=200)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.seconds, arguments.targets))
