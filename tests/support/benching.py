"""What the programs in tests/bench share: a scripted server in another process, and the lines that they print."""
# ruff: noqa: T201 - they print their figures

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from support.probing import model_plan, workload

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel
from exporter.plan import ModelPlan

PREFILL_SECONDS = 0.2


def model(tokens_per_second: float, length: int = 100_000) -> ScriptedModel:
    """Return a model with this rate, whose answers are longer than any benchmark asks for."""
    return ScriptedModel(
        tokens_per_second=tokens_per_second, length=length, prefill_seconds=PREFILL_SECONDS, load_seconds=0
    )


def plan(tokens: int) -> ModelPlan:
    """Return a plan of a probe with this number of tokens."""
    return replace(model_plan(), workload=workload(num_predict=tokens), timeout_seconds=120)


@contextlib.contextmanager
def server(models: Sequence[ScriptedModel], num_parallel: int = 1) -> Iterator[str]:
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


def resident_mb(process: int | str = "self") -> float:
    """Return the resident memory of a process, in MB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_seconds(process: int | str = "self") -> float:
    """Return the CPU time that a process has used, in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def title(text: str) -> None:
    """Print the title of the lines below."""
    print(f"\n{text}")


def line(what: str, values: Sequence[float], unit: str, bar: float, note: str = "") -> None:
    """Print the median and the maximum of some values, and their bar. All are magnitudes: smaller is better."""
    middle = median(values)
    shown = f"{middle:.4g}{unit}" + (f" (worst {max(values):.4g})" if len(values) > 1 else "")
    print(f"  {what:46}{shown:>28}   bar {f'{bar:g}{unit}':9}{'ok' if middle <= bar else 'OVER'}  {note}".rstrip())
