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

from exporter.plan import ModelKey
from exporter.reading import Reading
from exporter.state.model_state import ModelStatus

REFRESHES_PER_SECOND = 4
PIPED_WIDTH = 500
"""Columns where nobody looks: what is read by a program is not broken to fit a screen."""


def open_console(*, stderr: bool = False) -> Console:
    """Return a console that wraps long lines at words on a terminal, and breaks none in a pipe or a file."""
    console = Console(highlight=False, stderr=stderr)
    if not console.is_terminal:
        console.width, console.soft_wrap = PIPED_WIDTH, True
    return console


def reading_json(reading: Reading) -> dict[str, Any]:
    """Return a reading as JSON can hold it, the reference program's three figures first."""
    measured = asdict(reading.figures)
    return {
        "gpu": reading.gpu.label,
        "token_count": measured.pop("words"),
        "elapsed_seconds": measured.pop("elapsed_seconds"),
        "tokens_per_second": reading.figures.tokens_per_second,
        "finished_at": reading.finished_at,
        "uuids": reading.gpu.uuids,
        **measured,
        "model_load_seconds": reading.model_load_seconds,
        "contended": reading.contended,
        "model_gpu_ratio": reading.model_gpu_ratio,
        "gpu_state": asdict(reading.gpu.state) if reading.gpu.state else None,
        "bandwidth_utilization_ratio": reading.bandwidth_utilization_ratio,
        "tokens_per_joule": reading.tokens_per_joule,
        "model_info": reading.model_info,
        "result": reading.text,
    }


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f} s"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%} (as the server claims)"


def _known(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def print_reading(console: Console, pair: ModelKey, reading: Reading) -> None:
    """Print what the reference program printed, then what Ollama says."""
    figures, loaded = reading.figures, reading.model_load_seconds
    rate, stages = figures.tokens_per_second, figures.stages
    contended = sorted(by for by, seen in reading.contended.items() if seen)
    lines = [
        "Result:",
        reading.text.strip(),
        "",
        "Statistics:",
        f"Token Count: {_known(figures.words)}",
        f"Time Elapsed: {figures.elapsed_seconds:.2f} seconds",
        f"Tokens per Second: {'unknown' if rate is None else f'{rate:.2f}'}",
        "",
        f"What Ollama says of {pair.model} on {pair.target}:",
        f"Prompt tokens        {_known(figures.prompt_tokens)}",
        f"Output tokens        {_known(figures.output_tokens)}",
        f"Decode rate          {figures.decode_tokens_per_second:.2f} tokens/s",
        f"Time to first token  {_seconds(figures.time_to_first_token_seconds)}",
        f"Model load           {'already loaded' if loaded is None else _seconds(loaded)}",
        f"Queue                {_seconds(stages.queue_seconds if stages else None)}",
        f"Prefill              {_seconds(stages.prefill_seconds if stages else None)}",
        f"Share on the GPU     {_share(reading.model_gpu_ratio)}",
        f"GPU                  {reading.gpu.label}",
        f"Contended            {', '.join(contended) or 'no'}",
    ]
    if figures.truncated:
        lines.append("The stream ended without its final chunk: rate and time are by this program's clock.")
    console.print(Text("\n".join(lines)))


@contextlib.asynccontextmanager
async def live_line(console: Console, label: str, count_chunks: Callable[[], int]) -> AsyncIterator[None]:
    """Show elapsed time and tokens while the model generates; nothing where no one is looking."""
    if not console.is_terminal:
        yield
        return
    began = monotonic()

    def line() -> Text:
        text = f"{label}: {monotonic() - began:5.1f} s, {count_chunks()} tokens"
        return Text(text, style="dim", no_wrap=True, overflow="ellipsis")

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


def readings_table(rows: Sequence[ModelStatus]) -> Table:
    """Return the present readings as a table."""
    table = Table(title="Present readings", title_justify="left")
    for name in ("target", "model", "gpu"):
        table.add_column(name)
    for name in ("tokens/s", "words/s", "first token", "age"):
        table.add_column(name, justify="right")
    table.add_column("newest probe")
    for row in rows:
        reading = row.reading
        state = Text("none yet", style="dim")
        if row.state.success is not None:
            state = (
                Text("good", style="green")
                if row.state.success
                else Text(str(row.state.failure.reason) if row.state.failure else "", style="red")
            )
        cells = [row.gpu or "-", "-", "-", "-", "-"]
        if reading is not None and row.age_seconds is not None:
            rate = reading.figures.tokens_per_second
            expected = row.state.plan.expected_decode_tokens_per_second
            cells[1:] = [
                f"{reading.figures.decode_tokens_per_second:.1f}" + (f" of {expected:g}" if expected else ""),
                "-" if rate is None else f"{rate:.1f}",
                _seconds(reading.figures.time_to_first_token_seconds),
                f"{row.age_seconds:.0f} s",
            ]
        table.add_row(row.state.key.target, row.state.key.model, *cells, state)
    return table
