"""CPU time of a probe per chunk, compared with an async httpx and json reader of the same stream.

Run `python tests/bench/cpu_per_chunk.py [runs]`. CPU time is that of this process; the server runs in another one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.benching import plan_of, print_figure, print_title, scripted_model, scripted_server
from support.probing import QUESTION, TEMPLATE, probing

from exporter.probing.prober import Prober

TOKENS = 1000
RATES = (100, 1000)


async def read(client: httpx.AsyncClient, url: str) -> None:
    """Read a stream and parse its lines, and nothing else."""
    body = {"model": "llama3.1", "prompt": TEMPLATE.format(question=QUESTION), "options": {"num_predict": TOKENS}}
    chunks = 0
    async with client.stream("POST", f"{url}/api/generate", json=body) as response:
        async for text in response.aiter_lines():
            chunks += "response" in json.loads(text)
    assert chunks == TOKENS + 1


async def probe(prober: Prober) -> None:
    """Run one whole probe."""
    await prober.probe(plan_of(TOKENS))


async def cpu_microseconds(work: Callable[[], Awaitable[None]]) -> float:
    """Return the CPU time per chunk."""
    start = time.process_time()
    await work()
    return (time.process_time() - start) / TOKENS * 1e6


async def main(runs: int) -> None:
    """Print the figures."""
    print_title(f"CPU per chunk, {TOKENS} chunks, median of {runs}")
    for rate in RATES:
        with scripted_server([scripted_model(rate)]) as url:
            async with probing(url) as prober, httpx.AsyncClient(trust_env=False, timeout=None) as client:
                runs_of_both = [
                    (await cpu_microseconds(lambda: read(client, url)), await cpu_microseconds(lambda: probe(prober)))
                    for _ in range(runs + 1)
                ]
        del runs_of_both[0]  # warms up
        readers, probes = zip(*runs_of_both, strict=True)
        note = f"{median(probes):.0f} us, reader {median(readers):.0f} us"
        ratios = [of_probe / of_reader for of_reader, of_probe in runs_of_both]
        print_figure(f"probe / reader at {rate} chunks/s", ratios, " x", 3, note)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=3)
    asyncio.run(main(parser.parse_args().runs))
