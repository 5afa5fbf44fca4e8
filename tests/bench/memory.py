"""How much memory the daemon uses, and whether it grows.

First the daemon's resident memory after probes of every model, with 1 target and with 200 targets x 5 models; then
schedule, state and metrics over 24 h of simulated time, without LangChain and HTTP, with made-up readings and a scrape
per minute; then LangChain and httpx in real probes. Run `python tests/bench/memory.py [targets] [probes]`.
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
from support.benching import (
    plan_of,
    print_figure,
    print_title,
    resident_mb,
    scripted_model,
    scripted_server,
)
from support.daemons import daemon
from support.probing import probing
from support.readings import FULL, PLAN, failure
from support.simulated import run_simulated

from exporter.errors import Reason
from exporter.metrics.collector import ProbeCollector
from exporter.metrics.exposition import Format, render
from exporter.plan import ModelKey
from exporter.probing.schedule import Schedule
from exporter.probing.slots import Slot
from exporter.probing.turns import ProbeTurns
from exporter.state.store import StateStore

MODELS = 5
SIMULATED_MODELS = 20
SIMULATED_INTERVAL_SECONDS = 300.0
PROBING_SECONDS_MAX = 240


def in_process(work: Callable[..., None], *arguments: object) -> Any:
    """Run `work(connection, ...)` in another process and return what it sends."""
    receiver, sender = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(sender, *arguments))
    process.start()
    sender.close()
    result = receiver.recv()
    process.join()
    return result


async def daemon_resident(targets: int, models: int) -> float:
    """Return the daemon's resident memory, in MB, after two probes of every model, scraped meanwhile."""
    names = [f"model-{number}" for number in range(models)]
    fast = [replace(scripted_model(5000), name=name, prefill_seconds=0) for name in names]
    with scripted_server(fast, num_parallel=100) as url, tempfile.TemporaryDirectory() as folder:
        settings = [
            {"name": f"gpu-{number}", "url": url, "models": names, "num_predict": 16, "when_unloaded": "load"}
            for number in range(targets)
        ]
        wanted = targets * models
        interval = f"{max(5, wanted // 10)}s"  # ten probes per second
        async with daemon(Path(folder), settings, interval=interval, max_concurrent_probes=20) as running:
            running.lines = _DiscardingList()
            until = time.monotonic() + PROBING_SECONDS_MAX
            while time.monotonic() < until and (await running.value("successes_total") or 0) < 2 * wanted:
                await asyncio.sleep(max(1, wanted // 100))
            probed = await running.value("successes_total")
            found = resident_mb(running.process.pid)
            await running.end()
    print(f"    {probed or 0:.0f} probes of {wanted} models")
    return found


class _DiscardingList(list[str]):
    """A list of log lines that stays empty."""

    def append(self, _: str) -> None:
        """Discard the line."""


def simulate(sender: Connection) -> None:
    """Send the number of probes, and resident MB and objects after each hour of a simulated day."""
    logging.disable()
    store, registry = StateStore(), CollectorRegistry()
    ProbeCollector(store, registry)
    keys = [ModelKey(f"gpu-{number // MODELS}", f"model-{number % MODELS}") for number in range(SIMULATED_MODELS)]
    runs = 0
    hours: list[tuple[float, int]] = []

    async def probe(key: ModelKey, _: Slot) -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(3 + runs % 7 / 10)
        if runs % 50 == 0:
            store.probe_failed(key, failure(Reason.TIMEOUT), 3.0)
            return
        figures = replace(FULL.figures, decode_tokens_per_second=100 + runs % 97 / 7)
        store.probe_succeeded(key, replace(FULL, figures=figures, text="word " * 200), 3.0)

    async def day(_: object) -> None:
        schedule = Schedule(ProbeTurns(probe, max_concurrent_probes=4), store.probe_skipped)
        schedule.start()
        for number, key in enumerate(keys):
            store.add_model(key, PLAN)
            schedule.add(key, SIMULATED_INTERVAL_SECONDS, float(number))
        for _hour in range(24):
            for _minute in range(60):
                await asyncio.sleep(60)
                render(registry, Format.TEXT)
            gc.collect()
            hours.append((resident_mb(), len(gc.get_objects())))
        await schedule.stop()

    run_simulated(day)
    sender.send((runs, hours))


def keep_probing(sender: Connection, url: str, count: int) -> None:
    """Send resident MB after a fifth of the probes, and after all of them."""
    logging.disable()
    found: list[float] = []

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            probers = [await stack.enter_async_context(probing(url)) for _ in range(8)]

            async def probe_times(number: int) -> None:
                for _ in range(number):
                    await asyncio.gather(*(prober.probe(plan_of(16)) for prober in probers))
                gc.collect()
                found.append(resident_mb())

            await probe_times(count // 8 // 5)
            await probe_times(count // 8 * 4 // 5)

    asyncio.run(main())
    sender.send(found)


def main(targets: int, probes: int) -> None:
    """Print the figures."""
    print_title("Resident memory of the daemon")
    print_figure("1 target, 1 model", [asyncio.run(daemon_resident(1, 1))], " MB", 100)
    print_figure(f"{targets} targets x {MODELS} models", [asyncio.run(daemon_resident(targets, MODELS))], " MB", 200)
    print_title(
        f"24 h of simulated time: {SIMULATED_MODELS} models every {SIMULATED_INTERVAL_SECONDS:g} s, a scrape per minute"
    )
    runs, hours = in_process(simulate)
    note = f"{runs} probes, {hours[-1][0]:.1f} MB, objects {hours[1][1]} to {hours[-1][1]}"
    print_figure("growth from the 2nd hour to the 24th", [max(hours[-1][0] - hours[1][0], 0)], " MB", 1, note)
    with scripted_server([replace(scripted_model(5000), prefill_seconds=0)], num_parallel=8) as url:
        early, late = in_process(keep_probing, url, probes)
    print_title(f"{probes} real probes in one process, eight at a time")
    print_figure(
        "growth from a fifth of them to the last", [max(late - early, 0)], " MB", 1, f"{early:.1f} to {late:.1f} MB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="?", type=int, default=200)
    parser.add_argument("probes", nargs="?", type=int, default=1000)
    arguments = parser.parse_args()
    main(arguments.targets, arguments.probes)
