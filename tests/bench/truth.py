"""How accurate a probe's figures are, against a scripted server of known rate in another process.

The nominal elapsed time is prefill + (tokens - 1) / rate. `server` is how late the server itself was, by its own clock:
on a busy machine that error is the server's and not the probe's. Run `python tests/bench/truth.py [runs]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import multiprocessing
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.benching import (
    PREFILL_SECONDS,
    plan_of,
    print_figure,
    print_title,
    probed_models,
    scripted_model,
    scripted_server,
)
from support.probing import probing

from exporter.metrics.collector import ProbeCollector
from exporter.ollama.chain import ChunkRecorder
from exporter.probing.prober import Prober
from exporter.reading import Reading
from exporter.web.server import WebServer

RATES = (20, 100, 400, 1000)
SECONDS = 3.0
AT_ONCE = 20
MODELS = 13  # 1,000 series


@dataclass(frozen=True)
class Errors:
    """How far one probe's figures were from the nominal ones, as magnitudes."""

    elapsed_percent: float
    words: int
    first_token_ms: float
    rate_percent: float
    server_ms: float


async def measure(prober: Prober, rate: float) -> Errors:
    """Probe once and return the errors."""
    tokens, chunks = round(rate * SECONDS), ChunkRecorder()
    reading = await prober.probe(plan_of(tokens), chunks=chunks)
    assert isinstance(reading, Reading)
    figures, stages = reading.figures, reading.figures.stages
    assert stages is not None
    nominal = PREFILL_SECONDS + (tokens - 1) / rate
    client_rate = (tokens - 1) / (chunks.times[-1] - chunks.times[0])
    server_rate = (tokens - 1) / stages.decode_seconds
    return Errors(
        elapsed_percent=abs(figures.elapsed_seconds / nominal - 1) * 100,
        words=abs((figures.words or 0) - len(scripted_model(rate).answer(tokens).split())),
        first_token_ms=abs(figures.time_to_first_token_seconds - PREFILL_SECONDS) * 1000,
        rate_percent=abs(client_rate / server_rate - 1) * 100,
        server_ms=(stages.prefill_seconds + stages.decode_seconds - nominal) * 1000,
    )


def scrape(url: str) -> None:
    """Scrape once a second until killed."""
    while True:
        with urllib.request.urlopen(f"{url}/metrics") as response:
            response.read()
        time.sleep(1)


@contextlib.asynccontextmanager
async def scraped() -> AsyncIterator[None]:
    """Serve 1,000 series on this event loop to a scraper in another process."""
    store, registry = probed_models(MODELS), CollectorRegistry()
    ProbeCollector(store, registry)
    web = WebServer(registry, store, addresses=[("127.0.0.1", 0)], ready=lambda: True)
    [url] = await web.start()
    scraper = multiprocessing.get_context("spawn").Process(target=scrape, args=(url,), daemon=True)
    scraper.start()
    try:
        yield
    finally:
        scraper.kill()
        await web.stop()


def print_errors(found: list[Errors], elapsed_bar: float) -> None:
    """Print the lines of one rate."""
    lateness = f"server {max(error.server_ms for error in found):+.1f} ms"
    print_figure("  elapsed", [error.elapsed_percent for error in found], " %", elapsed_bar, lateness)
    print_figure("  words", [error.words for error in found], "", 0)
    print_figure("  time to first token", [error.first_token_ms for error in found], " ms", 5)
    print_figure("  rate by the client's clock", [error.rate_percent for error in found], " %", 0.5)


@contextlib.asynccontextmanager
async def warm_probers(url: str, count: int = 1) -> AsyncIterator[list[Prober]]:
    """Yield probers that have probed before, each for another target."""
    async with contextlib.AsyncExitStack() as stack:
        probers = [await stack.enter_async_context(probing(url)) for _ in range(count)]
        await asyncio.gather(*(prober.probe(plan_of(16)) for prober in probers))
        gc.freeze()  # as the daemon does
        yield probers


async def main(runs: int) -> None:
    """Print the errors."""
    print_title(f"Errors of one probe of {SECONDS:g} s, scraped every second meanwhile, median of {runs}")
    async with scraped():
        for rate in RATES:
            with scripted_server([scripted_model(rate)]) as url:
                async with warm_probers(url) as [prober]:
                    print(f"  {rate} tokens/s")
                    print_errors([await measure(prober, rate) for _ in range(runs)], 0.5)
        print_title(f"Errors of {AT_ONCE} probes at once, staggered by 100 ms")
        for rate in (50, 100):
            with scripted_server([scripted_model(rate)], num_parallel=AT_ONCE) as url:
                async with warm_probers(url, AT_ONCE) as probers:
                    print(f"  {rate} tokens/s each")
                    async with asyncio.TaskGroup() as group:
                        tasks = []
                        for prober in probers:
                            tasks.append(group.create_task(measure(prober, rate)))
                            await asyncio.sleep(0.1)
                    print_errors([task.result() for task in tasks], 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=3)
    asyncio.run(main(parser.parse_args().runs))
