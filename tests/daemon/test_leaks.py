"""Leaks: open files, threads, tasks and connections after five hundred probes of every kind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpcore
from prometheus_client import CollectorRegistry
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine
from support.probing import model_plan, target_plan, workload

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel
from exporter.gpu.monitor import GpuMonitor
from exporter.metrics.collector import ProbeCollector
from exporter.plan import ModelKey, TargetPlan
from exporter.probing.target import Target
from exporter.state.store import StateStore

LANES = 10
PROBES = 500
SETTLE_GUARD_SECONDS = 10
STEPS_MAX = 400
"""Steps of the event loop within which a short probe has started to receive its answer."""
HANG_TIMEOUT_SECONDS = 0.3
"""Timeout of a probe that will hang."""

FAULTS: list[Fault | None] = [
    None,
    Fault(FaultKind.SLOW),
    Fault(FaultKind.COLD),
    Fault(FaultKind.DONE_TWICE),
    Fault(FaultKind.THINKING),
    Fault(FaultKind.UNKNOWN_DONE_REASON),
    Fault(FaultKind.CPU, factor=0.01),
    Fault(FaultKind.LOAD_FOREVER),
    Fault(FaultKind.STALL_BEFORE_FIRST_TOKEN),
    Fault(FaultKind.STALL_IN_THE_MIDDLE, after_tokens=20),
    Fault(FaultKind.TRICKLE, factor=0.05),
    Fault(FaultKind.ENDLESS_HEADERS),
    Fault(FaultKind.ENDLESS_HEADERS, factor=0),
    Fault(FaultKind.CUT),
    Fault(FaultKind.CUT, after_tokens=20),
    Fault(FaultKind.HALF_CLOSED, after_tokens=20),
    Fault(FaultKind.NO_DONE, after_tokens=20),
    Fault(FaultKind.NO_DONE, after_tokens=10),
    Fault(FaultKind.JUNK_LINE, after_tokens=5),
    Fault(FaultKind.LONG_LINE, factor=9_000_000),
    Fault(FaultKind.ERROR_LINE, after_tokens=5),
    Fault(FaultKind.DEAD_MODEL, after_tokens=5, seconds=0.1),
    Fault(FaultKind.OUT_OF_MEMORY),
    Fault(FaultKind.OUT_OF_MEMORY, after_tokens=5),
    Fault(FaultKind.UNAUTHORIZED),
    Fault(FaultKind.FORBIDDEN),
    Fault(FaultKind.SERVER_BUSY),
    Fault(FaultKind.EMBEDDING_ONLY),
    Fault(FaultKind.NEGATIVE_DURATIONS),
    Fault(FaultKind.ABSURD_DURATIONS),
]
HANGING = {
    FaultKind.CPU,
    FaultKind.LOAD_FOREVER,
    FaultKind.STALL_BEFORE_FIRST_TOKEN,
    FaultKind.STALL_IN_THE_MIDDLE,
    FaultKind.TRICKLE,
    FaultKind.ENDLESS_HEADERS,
}
CANCELLED_AFTER = (0.0, 0.01, 0.05, 0.1, 0.2)
"""Seconds: before the first request, in each stage, in the middle of the answer."""


@dataclass
class Lane:
    """A target with its own server, probed with one fault after another, and the number of its probes."""

    engine: FaultyEngine
    server: OllamaServer
    target: Target
    key: ModelKey
    ended: int = 0
    cancelled: int = 0
    faults: itertools.cycle[Fault | None] = field(default_factory=lambda: itertools.cycle(FAULTS))

    async def probe(self, *, cancel_after: float | None = None) -> None:
        """Probe once, with the next fault."""
        fault = next(self.faults)
        hangs = fault is not None and fault.kind in HANGING
        self.target._models = {
            self.key: model_plan(
                when_unloaded="borrow" if fault is None else "load",
                timeout_seconds=HANG_TIMEOUT_SECONDS if hangs else 5,
                load_timeout_seconds=HANG_TIMEOUT_SECONDS if hangs else 5,
            )
        }
        if fault is not None:
            if fault.kind in {FaultKind.LOAD_FOREVER, FaultKind.OUT_OF_MEMORY}:
                await self.engine.expire(self.engine.models()[0])
            fault = self.engine.inject(replace(fault))
        task = asyncio.create_task(self.target.probe(self.key))
        if cancel_after is not None:
            await asyncio.sleep(cancel_after)
            task.cancel()
        await asyncio.wait({task})
        if task.cancelled():
            self.cancelled += 1
        else:
            task.result()
            self.ended += 1
        if fault is not None:
            fault.end()

    async def probe_often(self, probes: int, lane: int) -> None:
        """Probe several times; every third probe is cancelled, at different moments."""
        for number in range(lane, lane + probes):
            cancelled = number % 3 == 0
            await self.probe(cancel_after=CANCELLED_AFTER[number // 3 % len(CANCELLED_AFTER)] if cancelled else None)


@contextlib.asynccontextmanager
async def open_lane(name: str, store: StateStore) -> AsyncIterator[Lane]:
    """Yield a lane whose results are recorded in `store`."""
    engine = FaultyEngine([ScriptedModel(tokens_per_second=4000, load_seconds=0.06, prefill_seconds=0.005)])
    async with OllamaServer(engine) as server:
        plan: TargetPlan = target_plan(server.url, model_plan(), name=name)
        target = Target(plan, GpuMonitor(), store, lambda *_: asyncio.sleep(0))
        key = plan.key(model_plan())
        store.add_model(key, model_plan())
        try:
            yield Lane(engine, server, target, key)
        finally:
            await target.close()


def held() -> dict[str, Counter[str]]:
    """Count open files by kind, threads, tasks, and live connections of the HTTP client."""
    files: Counter[str] = Counter()
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            files[str(file.readlink()).partition(":")[0]] += 1
    gc.collect()
    kinds = (httpcore.AsyncConnectionInterface, asyncio.Transport, asyncio.Timeout)
    return {
        "files": files,
        "threads": Counter(thread.name.rstrip("0123456789") for thread in threading.enumerate()),
        "tasks": Counter(task.get_name().rstrip("0123456789") for task in asyncio.all_tasks()),
        "objects": Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, kinds)),
    }


def counts(registry: CollectorRegistry) -> dict[ModelKey, Counter[str]]:
    """Return each model's exposed counters of runs and of how they ended."""
    found: dict[ModelKey, Counter[str]] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            name = sample.name.removeprefix("ollama_probe_")
            if name in {"runs_total", "successes_total", "failures_total", "cancelled_total"}:
                key = ModelKey(sample.labels["target"], sample.labels["model"])
                found.setdefault(key, Counter())[name] += int(sample.value)
                if "reason" in sample.labels:
                    found[key][sample.labels["reason"]] += int(sample.value)
    return found


def assert_adds_up(registry: CollectorRegistry) -> None:
    """Check that runs = successes + failures + cancelled for every model."""
    for key, each in counts(registry).items():
        ends = each["successes_total"] + each["failures_total"] + each["cancelled_total"]
        assert each["runs_total"] == ends, key


async def test_five_hundred_probes_leave_nothing_open() -> None:
    """After successful, failed and cancelled probes the files, sockets, threads and tasks are those from before.

    At every scrape runs = successes + failures + cancelled, and at the end they are the number of probes.
    """
    registry = CollectorRegistry()
    store = StateStore()
    ProbeCollector(store, registry, collectors=())
    scrapes = 0

    async def keep_scraping() -> None:
        nonlocal scrapes
        while True:
            assert_adds_up(registry)
            scrapes += 1
            await asyncio.sleep(0.1)

    async with contextlib.AsyncExitStack() as stack:
        lanes = [await stack.enter_async_context(open_lane(f"lane-{number}", store)) for number in range(LANES)]
        for number, lane in enumerate(lanes):
            lane.faults = itertools.cycle([*FAULTS[number * 3 :], *FAULTS[: number * 3]])
        await asyncio.gather(*(lane.probe_often(3, number) for number, lane in enumerate(lanes)))  # all is imported
        await unload_all(lanes)
        before = held()
        scraping = asyncio.create_task(keep_scraping())
        await asyncio.gather(*(lane.probe_often(PROBES // LANES, number) for number, lane in enumerate(lanes)))
        scraping.cancel()
        assert (await asyncio.gather(scraping, return_exceptions=True))[0].__class__ is asyncio.CancelledError
        await unload_all(lanes)
        after = held()

    assert after == before
    assert scrapes > 10
    counted = counts(registry)
    for lane in lanes:
        assert counted[lane.key]["cancelled_total"] == lane.cancelled
        assert counted[lane.key]["runs_total"] == lane.ended + lane.cancelled
    every = sum(counted.values(), Counter())
    mixed = ("denied", "http", "protocol", "busy", "out_of_memory", "load_timeout", "no_first_token")
    assert all(every[kind] > 0 for kind in (*mixed, "successes_total", "cancelled_total"))
    assert every["internal"] == 0


async def unload_all(lanes: list[Lane]) -> None:
    """Wait until all connections are closed, and unload the models."""
    await wait_until_closed(lanes)
    for lane in lanes:
        await lane.engine.expire(lane.engine.models()[0])
    await asyncio.sleep(0.1)


async def wait_until_closed(lanes: list[Lane]) -> None:
    """Wait until the servers have no open connection: they notice the last close a moment later."""
    async with asyncio.timeout(SETTLE_GUARD_SECONDS):
        while any(lane.server.open_connections for lane in lanes):
            await asyncio.sleep(0.002)


async def test_probe_cancelled_at_any_step_leaves_no_connection() -> None:
    """A probe is cancelled after each number of event loop steps, and its connection is always closed."""
    async with open_lane("lane", StateStore()) as lane:
        lane.target._models = {lane.key: model_plan(when_unloaded="load", workload=workload(num_predict=16))}
        await lane.target.probe(lane.key)
        for steps in (*range(1, 60), *range(60, STEPS_MAX, 7)):
            task = asyncio.create_task(lane.target.probe(lane.key))
            for _ in range(steps):
                await asyncio.sleep(0)
            if task.done():
                break
            task.cancel()
            await asyncio.wait({task})
            await wait_until_closed([lane])
        await asyncio.wait({task})

    assert steps > 100
