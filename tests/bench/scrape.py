"""How long a scrape takes, and how much it delays the event loop that probes are timed on.

One process exposes 1,000 series and probes 20 targets without a pause. 50 clients in this process each scrape it once a
second over a persistent connection, as Prometheus does. The scripted server runs in a third process.
Run `python tests/bench/scrape.py [seconds] [models]`. A large installation of 200 targets x 5 models has 1,000 models.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import multiprocessing
import random
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.benching import (
    plan_of,
    print_figure,
    print_title,
    probed_models,
    scripted_model,
    scripted_server,
)
from support.probing import probing

from exporter.metrics.collector import ProbeCollector
from exporter.probing.prober import Prober
from exporter.web.server import WebServer

CLIENTS = 50
STREAMS = 20
TOKENS_PER_SECOND = 50
STREAMED_TOKENS = 250
BAR_MS = 20
ACCEPT = {
    "text": {"accept": "text/plain", "accept-encoding": "identity"},
    "text, gzip": {"accept": "text/plain", "accept-encoding": "gzip"},
    "OpenMetrics, gzip": {"accept": "application/openmetrics-text;version=1.0.0", "accept-encoding": "gzip"},
}


async def keep_probing(prober: Prober) -> None:
    """Probe without end, from a random moment on: the daemon does not start all at once either."""
    await asyncio.sleep(random.random() * STREAMED_TOKENS / TOKENS_PER_SECOND)
    while True:
        await prober.probe(plan_of(STREAMED_TOKENS))


async def record_lag(lags: list[float]) -> None:
    """Record how late the event loop wakes from a sleep, in seconds."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.002)
        lags.append(time.perf_counter() - before - 0.002)


def serve(control: Connection, ollama_url: str, models: int) -> None:
    """Run the measured process. It sends its URL, then for each message the lags and CPU seconds since the last one."""

    async def main() -> None:
        store, registry = probed_models(models), CollectorRegistry()
        ProbeCollector(store, registry)
        [url] = await WebServer(registry, store, addresses=[("127.0.0.1", 0)], ready=lambda: True).start()
        lags: list[float] = []
        async with contextlib.AsyncExitStack() as stack:
            probers = [await stack.enter_async_context(probing(ollama_url)) for _ in range(STREAMS)]
            tasks = [asyncio.create_task(keep_probing(prober)) for prober in probers]
            tasks.append(asyncio.create_task(record_lag(lags)))
            gc.freeze()  # as the daemon does
            control.send(url)
            since = time.process_time()
            while await asyncio.to_thread(control.recv):
                control.send((lags.copy(), time.process_time() - since))
                lags.clear()
                since = time.process_time()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


async def scrape(session: aiohttp.ClientSession, url: str, headers: dict[str, str], until: float) -> list[float]:
    """Scrape once a second from a random moment on, and return each scrape's seconds."""
    durations = []
    await asyncio.sleep(random.random())
    while (start := time.perf_counter()) < until:
        async with session.get(url, headers=headers) as response:
            await response.read()
        durations.append(time.perf_counter() - start)
        await asyncio.sleep(max(0.0, start + 1 - time.perf_counter()))
    return durations


def percentiles(seconds: list[float]) -> str:
    """Return p50, p99 and the maximum in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return f"p50 {cuts[49] * 1000:6.2f}   p99 {cuts[98] * 1000:6.2f}   max {max(seconds) * 1000:6.2f} ms"


async def usage(control: Connection) -> tuple[list[float], float]:
    """Return the lags and the CPU seconds of the measured process since the last call."""
    control.send("more")
    lags_and_cpu: tuple[list[float], float] = await asyncio.to_thread(control.recv)
    return lags_and_cpu


async def main(ollama_url: str, seconds: float, models: int) -> None:
    """Print the figures."""
    control, remote_control = multiprocessing.Pipe()
    arguments = (remote_control, ollama_url, models)
    process = multiprocessing.get_context("spawn").Process(target=serve, args=arguments)
    process.start()
    url = f"{await asyncio.to_thread(control.recv)}/metrics"
    connector = aiohttp.TCPConnector(limit=CLIENTS)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        async with session.get(url, headers=ACCEPT["text"]) as response:
            lines = (await response.text()).splitlines()
        series = sum(not line.startswith("#") for line in lines)
        print_title(
            f"{series} series, {CLIENTS} clients once a second, {STREAMS} probes at {TOKENS_PER_SECOND} tokens/s"
        )
        await asyncio.sleep(STREAMED_TOKENS / TOKENS_PER_SECOND)  # all probes have started by then
        await usage(control)
        await asyncio.sleep(seconds)
        lags, idle = await usage(control)
        print(f"{'event loop lag, no scrapes':32}{percentiles(lags)}")
        for name, headers in ACCEPT.items():
            start = time.perf_counter()
            durations = await asyncio.gather(*(scrape(session, url, headers, start + seconds) for _ in range(CLIENTS)))
            scrapes = [*itertools.chain(*durations)]
            lags, busy = await usage(control)
            cpu = (busy - idle / seconds * (time.perf_counter() - start)) / len(scrapes)
            p99 = statistics.quantiles(scrapes, n=100)[98] * 1000
            print_figure(f"p99 of /metrics as {name}", [p99], " ms", BAR_MS)
            print(f"{f'/metrics as {name}':32}{percentiles(scrapes)}   CPU per scrape {cpu * 1000:.2f} ms")
            print(f"{'event loop lag meanwhile':32}{percentiles(lags)}")
    control.send("")
    process.join(5)
    process.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=10)
    parser.add_argument("models", nargs="?", type=int, default=13)
    arguments = parser.parse_args()
    with scripted_server([scripted_model(TOKENS_PER_SECOND)], num_parallel=STREAMS) as ollama_url:
        asyncio.run(main(ollama_url, arguments.seconds, arguments.models))
