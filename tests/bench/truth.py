"""How exact a probe's figures are: against a scripted server of known pace, in a process of its own.

Nominal elapsed is prefill and (tokens - 1) / pace. `server` is by how much the server itself was late of that, by its
own clock: on a busy machine the error is its, not the probe's. Run `python tests/bench/truth.py [runs]`.
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
from support.benching import PREFILL_SECONDS, line, model, plan, server, title
from support.probing import probing
from support.readings import FULL, PLAN

from exporter.metrics.families import ProbeMetrics
from exporter.ollama.chain import ChunkRecorder
from exporter.plan import ModelKey
from exporter.probing.prober import Prober
from exporter.reading import Reading
from exporter.web.server import WebServer

PACES = (20, 100, 400, 1000)
SECONDS = 3.0
AT_ONCE = 20
PAIRS = 13  # 1,000 series


@dataclass(frozen=True)
class Errors:
    """How far one probe's figures were from the truth, as magnitudes."""

    elapsed_percent: float
    words: int
    first_token_ms: float
    rate_percent: float
    server_ms: float


async def measure(prober: Prober, pace: float) -> Errors:
    """Probe once."""
    tokens, chunks = round(pace * SECONDS), ChunkRecorder()
    reading = await prober.probe(plan(tokens), chunks=chunks)
    assert isinstance(reading, Reading)
    assert reading.stages is not None
    nominal = PREFILL_SECONDS + (tokens - 1) / pace
    seen = (tokens - 1) / (chunks.times[-1] - chunks.times[0])
    said = (tokens - 1) / reading.stages.decode_seconds
    return Errors(
        elapsed_percent=abs(reading.elapsed_seconds / nominal - 1) * 100,
        words=abs((reading.words or 0) - len(model(pace).answer(tokens).split())),
        first_token_ms=abs(reading.time_to_first_token_seconds - PREFILL_SECONDS) * 1000,
        rate_percent=abs(seen / said - 1) * 100,
        server_ms=(reading.stages.prefill_seconds + reading.stages.decode_seconds - nominal) * 1000,
    )


def scrape(url: str) -> None:
    """Scrape once a second, until killed."""
    while True:
        with urllib.request.urlopen(f"{url}/metrics") as response:
            response.read()
        time.sleep(1)


@contextlib.asynccontextmanager
async def scraped() -> AsyncIterator[None]:
    """Serve 1,000 series from this loop, to a scraper in a process of its own."""
    metrics = ProbeMetrics(CollectorRegistry())
    for number in range(PAIRS):
        metrics.add_pair(pair := ModelKey("t", f"model-{number}"), PLAN)
        metrics.succeeded(pair, FULL, 6.5)
    web = WebServer(metrics, addresses=[("127.0.0.1", 0)], ready=lambda: True)
    [url] = await web.start()
    scraper = multiprocessing.get_context("spawn").Process(target=scrape, args=(url,), daemon=True)
    scraper.start()
    try:
        yield
    finally:
        scraper.kill()
        await web.stop()


def show(found: list[Errors], elapsed_bar: float) -> None:
    """Print one pace's lines."""
    late = f"server {max(error.server_ms for error in found):+.1f} ms"
    line("  elapsed", [error.elapsed_percent for error in found], " %", elapsed_bar, late)
    line("  words", [error.words for error in found], "", 0)
    line("  time to first token", [error.first_token_ms for error in found], " ms", 5)
    line("  rate by the client's clock", [error.rate_percent for error in found], " %", 0.5)


@contextlib.asynccontextmanager
async def warm(url: str, count: int = 1) -> AsyncIterator[list[Prober]]:
    """Yield probers that have probed before, as the daemon's have, each of a target of its own."""
    async with contextlib.AsyncExitStack() as stack:
        probers = [await stack.enter_async_context(probing(url)) for _ in range(count)]
        await asyncio.gather(*(prober.probe(plan(16)) for prober in probers))
        gc.freeze()  # as the daemon does
        yield probers


async def main(runs: int) -> None:
    """Print the errors."""
    title(f"Errors of one probe of {SECONDS:g} s, the loop scraped every second meanwhile, median of {runs}")
    async with scraped():
        for pace in PACES:
            with server([model(pace)]) as url:
                async with warm(url) as [prober]:
                    print(f"  {pace} tokens/s")
                    show([await measure(prober, pace) for _ in range(runs)], 0.5)
        title(f"Errors of {AT_ONCE} probes at once, staggered by 100 ms")
        for pace in (50, 100):
            with server([model(pace)], num_parallel=AT_ONCE) as url:
                async with warm(url, AT_ONCE) as probers:
                    print(f"  {pace} tokens/s each")
                    async with asyncio.TaskGroup() as group:
                        tasks = []
                        for prober in probers:
                            tasks.append(group.create_task(measure(prober, pace)))
                            await asyncio.sleep(0.1)
                    show([task.result() for task in tasks], 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=3)
    asyncio.run(main(parser.parse_args().runs))
