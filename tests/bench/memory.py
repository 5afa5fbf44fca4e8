"""How much memory the daemon takes, and whether that grows.

Resident memory of the real daemon after probes of every pair, with 1 target and with 200 targets x 5 models; then
schedule and metrics alone over 24 h of simulated time, with readings made up and a scrape a minute (neither LangChain
nor HTTP take part); then LangChain and httpx alone, in real probes one after another.
Run `python tests/bench/memory.py [targets] [probes]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.benching import line, model, plan, resident_mb, server, title
from support.daemons import daemon
from support.probing import probing
from support.readings import FULL, PLAN
from support.simulated import run_simulated

from exporter.errors import Reason
from exporter.metrics.exposition import Format, render
from exporter.metrics.families import ProbeMetrics
from exporter.plan import ModelKey
from exporter.probing.schedule import Schedule

MODELS = 5
SIMULATED_PAIRS = 20
SIMULATED_INTERVAL = 300.0
HOUR = 3600.0
PROBED_SECONDS = 240


def in_process(work: Callable[..., None], *arguments: object) -> Any:
    """Run `work(connection, ...)` in a process of its own and return what it sends."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(theirs, *arguments))
    process.start()
    theirs.close()
    answer = ours.recv()
    process.join()
    return answer


async def daemon_resident(targets: int, models: int) -> float:
    """Return the daemon's resident memory once every pair has been probed, scraped meanwhile."""
    names = [f"model-{number}" for number in range(models)]
    fast = [replace(model(5000), name=name, prefill_seconds=0) for name in names]
    with server(fast, num_parallel=100) as url, tempfile.TemporaryDirectory() as folder:
        settings = [
            {"name": f"gpu-{number}", "url": url, "models": names, "num_predict": 16, "when_unloaded": "load"}
            for number in range(targets)
        ]
        wanted = targets * models
        interval = f"{max(5, wanted // 10)}s"  # ten probes a second
        async with daemon(Path(folder), settings, interval=interval, max_concurrent_probes=20) as running:
            running.lines = _Forgetting()
            until = time.monotonic() + PROBED_SECONDS
            while time.monotonic() < until and (await running.value("successes_total") or 0) < 2 * wanted:
                await asyncio.sleep(max(1, wanted // 100))
            probed = await running.value("successes_total")
            found = resident_mb(running.process.pid)
            await running.end()
    print(f"    {probed or 0:.0f} probes of {wanted} pairs")
    return found


class _Forgetting(list[str]):
    """A log that is not kept."""

    def append(self, _: str) -> None:
        """Forget it."""


def simulate(answer: Connection) -> None:
    """Send resident MB and objects, at each hour of a simulated day."""
    logging.disable()
    metrics = ProbeMetrics(CollectorRegistry())
    pairs = [ModelKey(f"gpu-{number // MODELS}", f"model-{number % MODELS}") for number in range(SIMULATED_PAIRS)]
    runs = 0
    hours: list[tuple[float, int]] = []

    async def probe(pair: ModelKey) -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(3 + runs % 7 / 10)
        if runs % 50 == 0:
            metrics.failed(pair, Reason.TIMEOUT, 3.0)
            return
        metrics.succeeded(pair, replace(FULL, decode_tokens_per_second=100 + runs % 97 / 7, text="word " * 200), 3.0)

    async def day(_: object) -> None:
        schedule = Schedule(probe, metrics.skipped, max_concurrent_probes=4)
        schedule.start()
        for number, pair in enumerate(pairs):
            metrics.add_pair(pair, PLAN)
            schedule.add(pair, SIMULATED_INTERVAL, float(number))
        for _hour in range(24):
            for _minute in range(60):
                await asyncio.sleep(60)
                render(metrics.registry, Format.TEXT, frozenset())
            gc.collect()
            hours.append((resident_mb(), len(gc.get_objects())))
        await schedule.stop()

    run_simulated(day)
    answer.send((runs, hours))


def probe_on(answer: Connection, url: str, count: int) -> None:
    """Send resident MB after a fifth of the probes, and after all."""
    logging.disable()
    found: list[float] = []

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            probers = [await stack.enter_async_context(probing(url)) for _ in range(8)]

            async def one_after_another(number: int) -> None:
                for _ in range(number):
                    await asyncio.gather(*(prober.probe(plan(16)) for prober in probers))
                gc.collect()
                found.append(resident_mb())

            await one_after_another(count // 8 // 5)
            await one_after_another(count // 8 * 4 // 5)

    asyncio.run(main())
    answer.send(found)


def main(targets: int, probes: int) -> None:
    """Print the figures."""
    title("Resident memory of the daemon")
    line("1 target, 1 model", [asyncio.run(daemon_resident(1, 1))], " MB", 100)
    line(f"{targets} targets x {MODELS} models", [asyncio.run(daemon_resident(targets, MODELS))], " MB", 200)
    title(f"24 h of simulated time: {SIMULATED_PAIRS} pairs every {SIMULATED_INTERVAL:g} s, a scrape a minute")
    runs, hours = in_process(simulate)
    note = f"{runs} probes, {hours[-1][0]:.1f} MB, objects {hours[1][1]} to {hours[-1][1]}"
    line("growth from the 2nd hour to the 24th", [max(hours[-1][0] - hours[1][0], 0)], " MB", 1, note)
    with server([replace(model(5000), prefill_seconds=0)], num_parallel=8) as url:
        early, late = in_process(probe_on, url, probes)
    title(f"{probes} real probes in one process, eight at a time")
    line("growth from a fifth of them to the last", [max(late - early, 0)], " MB", 1, f"{early:.1f} to {late:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="?", type=int, default=200)
    parser.add_argument("probes", nargs="?", type=int, default=1000)
    arguments = parser.parse_args()
    main(arguments.targets, arguments.probes)
