"""What a probe costs per chunk, beside an async httpx and json reader of the same stream. CPU time of this process.

Run `python tests/bench/cpu_per_chunk.py [runs]`. The server has a process of its own.
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
from support.benching import line, model, plan, server, title
from support.probing import QUESTION, TEMPLATE, probing

from exporter.probing.prober import Prober

TOKENS = 1000
PACES = (100, 1000)


async def read(client: httpx.AsyncClient, url: str) -> None:
    """Read a stream and parse its lines, no more."""
    body = {"model": "llama3.1", "prompt": TEMPLATE.format(question=QUESTION), "options": {"num_predict": TOKENS}}
    chunks = 0
    async with client.stream("POST", f"{url}/api/generate", json=body) as response:
        async for text in response.aiter_lines():
            chunks += "response" in json.loads(text)
    assert chunks == TOKENS + 1


async def probe(prober: Prober) -> None:
    """Probe once, looking and judging included."""
    await prober.probe(plan(TOKENS))


async def cost(work: Callable[[], Awaitable[None]]) -> float:
    """Return the microseconds of CPU that a chunk took."""
    began = time.process_time()
    await work()
    return (time.process_time() - began) / TOKENS * 1e6


async def main(runs: int) -> None:
    """Print the figures."""
    title(f"CPU per chunk, {TOKENS} chunks, median of {runs}")
    for pace in PACES:
        with server([model(pace)]) as url:
            async with probing(url) as prober, httpx.AsyncClient(trust_env=False, timeout=None) as client:
                pairs = [
                    (await cost(lambda: read(client, url)), await cost(lambda: probe(prober)))
                    for _ in range(runs + 1)  # the first warms up
                ]
        readers, probes = zip(*pairs[1:], strict=True)
        note = f"{median(probes):.0f} us beside {median(readers):.0f} us"
        ratios = [mine / theirs for theirs, mine in pairs[1:]]
        line(f"probe / reader at {pace} chunks a second", ratios, " x", 3, note)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=3)
    asyncio.run(main(parser.parse_args().runs))
