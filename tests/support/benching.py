"""What the programs in tests/bench share: a scripted server in another process, and the lines that they print."""
# ruff: noqa: T201 - they print their figures

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from statistics import median

import psutil
from support.probing import model_plan, workload
from support.readings import FULL, PLAN

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel
from exporter.plan import ModelKey, ModelPlan
from exporter.state.store import StateStore

PREFILL_SECONDS = 0.2


def scripted_model(tokens_per_second: float, length: int = 100_000) -> ScriptedModel:
    """Return a model with this rate, whose answers are by default longer than any benchmark asks for."""
    return ScriptedModel(
        tokens_per_second=tokens_per_second, length=length, prefill_seconds=PREFILL_SECONDS, load_seconds=0
    )


def plan_of(tokens: int) -> ModelPlan:
    """Return the plan of a probe with this number of tokens."""
    return replace(model_plan(), workload=workload(num_predict=tokens), timeout_seconds=120)


@contextlib.contextmanager
def scripted_server(models: Sequence[ScriptedModel], num_parallel: int = 1) -> Iterator[str]:
    """Run a scripted server in another process, so that it does not disturb what is measured, and yield its URL."""
    control, remote_control = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(remote_control, models, num_parallel))
    process.start()
    try:
        yield control.recv()
    finally:
        control.send("end")
        process.join(5)
        process.kill()


def _serve(control: Connection, models: Sequence[ScriptedModel], num_parallel: int) -> None:
    async def main() -> None:
        async with OllamaServer(ScriptedEngine(models, num_parallel=num_parallel)) as server:
            control.send(server.url)
            await asyncio.to_thread(control.recv)

    asyncio.run(main())


def probed_models(count: int) -> StateStore:
    """Return a store with this number of models, five per target, each with a full reading: 76 series per model."""
    store = StateStore()
    for number in range(count):
        key = ModelKey(f"gpu-{number // 5}", f"model-{number % 5}")
        store.add_model(key, PLAN)
        store.probe_succeeded(key, FULL, 6.5)
    return store


def resident_mb(pid: int | None = None) -> float:
    """Return the resident memory of a process, by default this one, in MB."""
    resident_bytes: int = psutil.Process(pid).memory_info().rss
    return resident_bytes / 1e6


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, in seconds."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def print_title(text: str) -> None:
    """Print the title of the lines below."""
    print(f"\n{text}")


def print_figure(name: str, values: Sequence[float], unit: str, bar: float, note: str = "") -> None:
    """Print the median and the maximum of some values, and their bar. All are magnitudes: smaller is better."""
    middle = median(values)
    shown = f"{middle:.4g}{unit}" + (f" (worst {max(values):.4g})" if len(values) > 1 else "")
    result = "ok" if middle <= bar else "OVER"
    print(f"  {name:46}{shown:>28}   bar {f'{bar:g}{unit}':9}{result}  {note}".rstrip())
