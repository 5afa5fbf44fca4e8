"""What the commands show on a terminal: a reading, a progress line, the table of current readings."""

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
LOW_SHARE = 0.8
"""Share of the expected rate below which a rate is shown in red."""
PIPED_WIDTH = 500
"""Columns of output that is not a terminal: a program reads it, so lines are not wrapped."""


def open_console(*, stderr: bool = False) -> Console:
    """Return a console that wraps long lines at words on a terminal, and never in a pipe or a file."""
    console = Console(highlight=False, stderr=stderr)
    if not console.is_terminal:
        console.width, console.soft_wrap = PIPED_WIDTH, True
    return console


def reading_json(reading: Reading) -> dict[str, Any]:
    """Return a reading as values that JSON can hold, the reference program's three figures first."""
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


def _known(value: object, text: str) -> str:
    return "unknown" if value is None else text


def _seconds(value: float | None) -> str:
    return _known(value, f"{value or 0:.3f} s")


def print_reading(console: Console, key: ModelKey, reading: Reading) -> None:
    """Print what the reference program prints, then what Ollama reports."""
    figures, rate, stages = reading.figures, reading.figures.tokens_per_second, reading.figures.stages
    load, gpu_ratio = reading.model_load_seconds, reading.model_gpu_ratio
    contended = sorted(by for by, is_contended in reading.contended.items() if is_contended)
    lines = [
        "Result:",
        reading.text.strip(),
        "",
        "Statistics:",
        f"Token Count: {_known(figures.words, str(figures.words))}",
        f"Time Elapsed: {figures.elapsed_seconds:.2f} seconds",
        f"Tokens per Second: {_known(rate, f'{rate or 0:.2f}')}",
        "(Tokens separated by whitespace, as the reference program counts. Ollama counts the model's own tokens.)",
        "",
        f"Reported by Ollama for {key.model} on {key.target}:",
        f"Prompt tokens        {_known(figures.prompt_tokens, str(figures.prompt_tokens))}",
        f"Output tokens        {_known(figures.output_tokens, str(figures.output_tokens))}",
        f"Decode rate          {figures.decode_tokens_per_second:.2f} tokens/s",
        f"Time to first token  {_seconds(figures.time_to_first_token_seconds)}",
        f"Model load           {'already loaded' if load is None else _seconds(load)}",
        f"Queue                {_seconds(stages.queue_seconds if stages else None)}",
        f"Prefill              {_seconds(stages.prefill_seconds if stages else None)}",
        f"Share on the GPU     {_known(gpu_ratio, f'{gpu_ratio or 0:.0%}')}",
        f"GPU                  {reading.gpu.label}",
        f"Contended            {', '.join(contended) or 'no'}",
    ]
    if figures.truncated:
        lines.append("The answer ended without Ollama's final chunk: rate and time are measured by the client.")
    console.print(Text("\n".join(lines)))


@contextlib.asynccontextmanager
async def live_line(console: Console, label: str, count_chunks: Callable[[], int]) -> AsyncIterator[None]:
    """Show elapsed time and chunks on a terminal while the model generates."""
    if not console.is_terminal:
        yield
        return
    started_at = monotonic()

    def line() -> Text:
        text = f"{label}: {monotonic() - started_at:5.1f} s, {count_chunks()} tokens"
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


def share_of_expected(status: ModelStatus) -> float | None:
    """Return the exposed rate as a share of the expected rate; None where either is missing."""
    expected = status.state.plan.expected_decode_tokens_per_second
    return status.reading.figures.decode_tokens_per_second / expected if status.reading and expected else None


def readings_table(statuses: Sequence[ModelStatus]) -> Table:
    """Return the current readings as a table that fits 80 columns for names as short as the demo's."""
    table = Table(title="Current readings", title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("model", "gpu"):
        table.add_column(name, overflow="fold")
    for name in ("tokens/s", "expected", "words/s", "first\ntoken", "age"):
        table.add_column(name, justify="right")
    table.add_column("last probe", overflow="fold")
    for status in statuses:
        key = status.state.key
        table.add_row(Text(f"{key.target}\n{key.model}"), *_cells(status), _last_probe(status))
    return table


def _cells(status: ModelStatus) -> tuple[str | Text, ...]:
    reading, share = status.reading, share_of_expected(status)
    if reading is None or status.age_seconds is None:
        return (status.gpu or "-", "-", "-", "-", "-", "-")
    figures, rate = reading.figures, reading.figures.tokens_per_second
    style = "red" if share is not None and share < LOW_SHARE else ""
    return (
        reading.gpu.label,
        Text(f"{figures.decode_tokens_per_second:.1f}", style=style),
        Text("-" if share is None else f"{share:.0%}", style=style),
        "-" if rate is None else f"{rate:.1f}",
        _seconds(figures.time_to_first_token_seconds),
        f"{status.age_seconds:.0f} s",
    )


def _last_probe(status: ModelStatus) -> Text:
    if status.state.success is None:
        return Text("none yet", style="dim")
    failure = status.state.failure
    return Text(str(failure.reason), style="red") if failure else Text("ok", style="green")
