"""What the commands show on a terminal, and in a pipe."""

from __future__ import annotations

import asyncio
import io
from dataclasses import fields, replace

import pytest
from rich.console import Console
from support.readings import FULL, PLAN, TRUNCATED

from exporter.commands.console import live_line, open_console, print_reading, reading_json, readings_table
from exporter.errors import Failure, Reason
from exporter.plan import ModelKey
from exporter.reading import Figures, GpuObservation, Reading
from exporter.state.model_state import ModelState, status_at

KEY = ModelKey("gpu-a", "llama3.1")


def terminal(width: int = 100) -> Console:
    """Return a terminal of this width that keeps what is printed."""
    return Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False, color_system=None)


def printed_on(console: Console) -> str:
    """Return what was printed."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def printed(reading: Reading) -> str:
    """Return what is printed of a reading on a wide terminal."""
    console = terminal(200)
    print_reading(console, KEY, reading)
    return printed_on(console)


def test_starts_with_the_lines_of_the_reference_program() -> None:
    """The result and the three statistics are printed exactly as the reference program prints them."""
    assert printed(replace(FULL, text="\n A neuron.\n\nIt adds. ")).startswith(
        "Result:\nA neuron.\n\nIt adds.\n\nStatistics:\n"
        "Token Count: 187\nTime Elapsed: 2.75 seconds\nTokens per Second: 68.00\n"
    )


def test_unknown_figures_are_printed_as_unknown() -> None:
    """A cut stream whose thinking was lost has no words, no rate of words and none of the server's figures."""
    figures = replace(TRUNCATED.figures, words=None, prompt_tokens=None)
    lines = printed(replace(TRUNCATED, figures=figures, loaded=None)).splitlines()

    assert "Token Count: unknown" in lines
    assert "Tokens per Second: unknown" in lines
    for name in ("Prompt tokens", "Output tokens", "Queue", "Prefill", "Share on the GPU"):
        assert f"{name:21}unknown" in lines
    assert f"{'Model load':21}already loaded" in lines
    assert f"{'Contended':21}no" in lines


def test_text_of_a_model_is_not_markup() -> None:
    """Brackets in an answer or in a name are printed unchanged."""
    reading = replace(FULL, text="[bold]x[/bold] [/]", gpu=GpuObservation(label="[red]"))

    assert "[bold]x[/bold] [/]" in printed(reading)
    assert "[red]" in printed(reading)


def test_lines_are_not_wrapped_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """A paragraph of an answer stays one line."""
    text = "word " * 400
    print_reading(open_console(), KEY, replace(FULL, text=text))

    assert text.strip() in capsys.readouterr().out.splitlines()


def test_json_has_every_figure() -> None:
    """The reference figures come first and the answer's text last; in between is every figure of a reading."""
    answer = reading_json(replace(FULL, text="A neuron."))
    figures = {each.name for each in fields(Figures)} - {"words"}

    assert list(answer)[:4] == ["gpu", "token_count", "elapsed_seconds", "tokens_per_second"]
    assert list(answer)[-1] == "result"
    assert figures | {"finished_at", "uuids", "model_load_seconds", "contended", "model_gpu_ratio"} <= set(answer)
    assert (answer["token_count"], answer["elapsed_seconds"], answer["tokens_per_second"]) == (187, 2.75, 68.0)
    assert answer["stages"]["queue_seconds"] == 0.004
    assert answer["gpu_state"]["power_watts"] == 320.0
    assert answer["tokens_per_joule"] == 256 / 800
    assert answer["model_info"]["family"] == "llama"


async def test_live_line_is_for_terminals_only() -> None:
    """It is shown while the model generates and erased at the end; in a pipe nothing is written."""
    console, pipe = terminal(), Console(file=io.StringIO())
    async with live_line(console, "llama3.1 on gpu-a", lambda: 7):
        await asyncio.sleep(0)
    async with live_line(pipe, "llama3.1 on gpu-a", lambda: 7):
        await asyncio.sleep(0)

    assert "llama3.1 on gpu-a:   0.0 s, 7 tokens" in printed_on(console)
    assert printed_on(console).endswith("\x1b[2K")  # the terminal's code to erase a line
    assert printed_on(pipe) == ""


def test_table_fits_a_terminal_of_80_columns() -> None:
    """A model not probed yet, one below its expected rate and one that fails take no more than 80 columns."""
    new = ModelState(key=ModelKey("demo-gpu", "llama3.1"), plan=PLAN)
    slow = replace(FULL, gpu=GpuObservation(label="Simulated GPU"), figures=replace(FULL.figures, words=120))
    good = new.with_success(slow, 3.0, 10.0)
    failed = good.with_failure(Failure(Reason.OUT_OF_MEMORY, "", ""), 3.0, 11.0)
    console = terminal(80)
    console.print(readings_table([status_at(state, 12.0) for state in (new, good, failed)]))
    text = printed_on(console)

    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "Simulated GPU" in text  # not folded
    for cell in ("none yet", "102.4", "102%", "0.125 s", "2 s", "ok", "out_of_memory"):
        assert cell in text
