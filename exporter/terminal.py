"""What the commands show on a terminal: a probe's result, its live line, the table of readings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from time import monotonic
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from exporter.plan import Pair
from exporter.reading import Reading
from exporter.record import PairStatus

REFRESHES_PER_SECOND = 4


def figures(pair: Pair, reading: Reading) -> dict[str, Any]:
    """Return a reading as JSON can hold it, the reference program's three figures first."""
    return {
        "target": pair.target,
        "model": pair.model,
        "gpu": reading.gpu,
        "token_count": reading.words,
        "elapsed_seconds": reading.elapsed_seconds,
        "tokens_per_second": reading.tokens_per_second,
        **{name: value for name, value in asdict(reading).items() if name not in {"gpu", "words", "text", "model"}},
        "tokens_per_joule": reading.tokens_per_joule,
        "model_info": asdict(reading.model),
        "result": reading.text,
    }


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f} s"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%}"


def print_reading(console: Console, pair: Pair, reading: Reading) -> None:
    """Print what the reference program printed, then what Ollama says."""
    rate = reading.tokens_per_second
    console.print("Result:")
    console.print(Text(reading.text.strip()), soft_wrap=True)
    console.print("\nStatistics:")
    console.print(f"Token Count: {'unknown' if reading.words is None else reading.words}")
    console.print(f"Time Elapsed: {reading.elapsed_seconds:.2f} seconds")
    console.print(f"Tokens per Second: {'unknown' if rate is None else f'{rate:.2f}'}")
    console.print(Text(f"\nWhat Ollama says of {pair.model} on {pair.target}:"))
    rows = Table.grid(padding=(0, 2))
    stages, loaded = reading.stages, reading.model_load_seconds
    for name, value in (
        ("Prompt tokens", "unknown" if reading.prompt_tokens is None else str(reading.prompt_tokens)),
        ("Output tokens", "unknown" if reading.output_tokens is None else str(reading.output_tokens)),
        ("Decode rate", f"{reading.decode_tokens_per_second:.2f} tokens/s"),
        ("Time to first token", _seconds(reading.time_to_first_token_seconds)),
        ("Model load", _seconds(loaded) if loaded is not None else "already loaded"),
        ("Queue", _seconds(stages.queue_seconds if stages else None)),
        ("Prefill", _seconds(stages.prefill_seconds if stages else None)),
        ("Share on the GPU", f"{_share(reading.model_gpu_ratio)} (as the server claims)"),
        ("GPU", reading.gpu),
        ("Contended", ", ".join(sorted(by for by, seen in reading.contended.items() if seen)) or "no"),
    ):
        rows.add_row(name, Text(value))
    console.print(rows)
    if reading.truncated:
        console.print("The stream ended without its final chunk: rate and time are by this program's clock.")


@contextlib.asynccontextmanager
async def live_line(console: Console, label: str, count_chunks: Callable[[], int]) -> AsyncIterator[None]:
    """Show elapsed time and tokens while the model generates; nothing where no one is looking."""
    if not console.is_terminal:
        yield
        return
    began = monotonic()

    def line() -> Text:
        return Text(f"{label}: {monotonic() - began:5.1f} s, {count_chunks()} tokens", style="dim")

    async def refresh(live: Live) -> None:
        while True:
            await asyncio.sleep(1 / REFRESHES_PER_SECOND)
            live.update(line(), refresh=True)

    with Live(line(), console=console, transient=True, auto_refresh=False) as live:
        refreshing = asyncio.create_task(refresh(live))
        try:
            yield
        finally:
            refreshing.cancel()


def readings_table(rows: Sequence[PairStatus]) -> Table:
    """Return the present readings as a table."""
    table = Table(title="Present readings", title_justify="left")
    for name in ("target", "model", "gpu"):
        table.add_column(name)
    for name in ("decode tok/s", "words/s", "first token", "age"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for row in rows:
        reading = row.reading
        state = Text("no run yet", style="dim")
        if row.success is not None:
            state = Text("good", style="green") if row.success else Text(f"failing: {row.failure}", style="red")
        cells = [row.gpu or "-", "-", "-", "-", "-"]
        if reading is not None and row.age_seconds is not None:
            rate = reading.tokens_per_second
            cells[1:] = [
                f"{reading.decode_tokens_per_second:.1f}",
                "-" if rate is None else f"{rate:.1f}",
                _seconds(reading.time_to_first_token_seconds),
                f"{row.age_seconds:.0f} s",
            ]
        table.add_row(row.pair.target, row.pair.model, *cells, state)
    return table
