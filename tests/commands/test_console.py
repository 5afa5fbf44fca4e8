"""What a person reads on a terminal, and what a program reads from a pipe."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace

import pytest
from rich.console import Console
from support.readings import FULL, PLAN, TRUNCATED

from exporter.commands.console import figures, live_line, open_console, print_reading, readings_table
from exporter.errors import Reason
from exporter.plan import ModelKey
from exporter.reading import Reading
from exporter.state.model_state import ModelState, ModelStatus, status_of

PAIR = ModelKey("gpu-a", "llama3.1")


def terminal(width: int = 100) -> Console:
    """Return a terminal of so many columns."""
    return Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False, color_system=None)


def shown(console: Console) -> str:
    """Return what stands on it."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def printed(reading: Reading) -> str:
    """Return what is printed of a reading on a wide terminal."""
    console = terminal(200)
    print_reading(console, PAIR, reading)
    return shown(console)


def test_first_what_the_reference_program_printed_then_what_ollama_says() -> None:
    """Word for word, two decimals where it had two."""
    assert printed(replace(FULL, text="\n A neuron.\n\nIt adds. ")) == (
        "Result:\n"
        "A neuron.\n"
        "\n"
        "It adds.\n"
        "\n"
        "Statistics:\n"
        "Token Count: 187\n"
        "Time Elapsed: 2.75 seconds\n"
        "Tokens per Second: 68.00\n"
        "\n"
        "What Ollama says of llama3.1 on gpu-a:\n"
        "Prompt tokens        46\n"
        "Output tokens        256\n"
        "Decode rate          102.40 tokens/s\n"
        "Time to first token  0.125 s\n"
        "Model load           3.500 s\n"
        "Queue                0.004 s\n"
        "Prefill              0.062 s\n"
        "Share on the GPU     100% (as the server claims)\n"
        "GPU                  NVIDIA GeForce RTX 3090\n"
        "Contended            gpu\n"
    )


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    """A cut stream whose thinking was lost has no words, no rate of words and none of the server's figures."""
    lines = printed(replace(TRUNCATED, words=None, prompt_tokens=None, model_gpu_ratio=None)).splitlines()

    assert "Token Count: unknown" in lines
    assert "Tokens per Second: unknown" in lines
    for name in ("Prompt tokens", "Output tokens", "Queue", "Prefill", "Share on the GPU"):
        assert f"{name:21}unknown" in lines
    assert f"{'Model load':21}already loaded" in lines
    assert f"{'Contended':21}no" in lines
    assert lines[-1].startswith("The stream ended without its final chunk")


def test_no_text_of_a_model_is_markup() -> None:
    """Brackets in an answer, or in a name, are printed as they are."""
    assert "[bold]x[/bold] [/]" in printed(replace(FULL, text="[bold]x[/bold] [/]", gpu="[red]"))


def test_no_line_is_broken_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """A paragraph of an answer stays one line."""
    text = "word " * 400
    print_reading(open_console(), PAIR, replace(FULL, text=text))

    assert text.strip() in capsys.readouterr().out.splitlines()


def test_json_holds_the_reference_figures_and_everything_else() -> None:
    """Plain values, the answer's text last."""
    answer = figures(replace(FULL, text="A neuron."))

    assert (answer["token_count"], answer["elapsed_seconds"], answer["tokens_per_second"]) == (187, 2.75, 68.0)
    assert answer["stages"]["queue_seconds"] == 0.004
    assert answer["tokens_per_joule"] == 256 / 800
    assert answer["model_info"]["family"] == "llama"
    assert list(answer)[-1] == "result"
    assert {"words", "text", "model"}.isdisjoint(answer)


async def test_a_live_line_on_a_terminal_only() -> None:
    """It counts while the model generates and is gone in the end; elsewhere nothing is written."""
    console, pipe = terminal(), Console(file=io.StringIO())
    async with live_line(console, "llama3.1 on gpu-a", lambda: 7):
        await asyncio.sleep(0)
    async with live_line(pipe, "llama3.1 on gpu-a", lambda: 7):
        await asyncio.sleep(0)

    assert "llama3.1 on gpu-a:   0.0 s, 7 tokens" in shown(console)
    assert shown(console).endswith("\x1b[2K")  # erased
    assert shown(pipe) == ""


def row(record: ModelState, monotonic: float = 12.0) -> ModelStatus:
    """Return a record as the table gets it."""
    return status_of(record, monotonic)


def test_the_table_says_how_each_pair_fares() -> None:
    """None yet, good with its rate beside the expected one, or why it failed; within 100 columns."""
    new = ModelState(pair=ModelKey("demo-gpu", "llama3.1"), plan=PLAN)
    good = new.with_success(replace(FULL, gpu="Scripted GPU"), 3.0, 10.0)
    failed = good.with_failure(Reason.OUT_OF_MEMORY, 3.0, 11.0)
    console = terminal(100)
    console.print(readings_table([row(new), row(good), row(failed)]))
    lines = shown(console).splitlines()

    assert max(map(len, lines)) <= 100
    assert len(lines) == 8  # title, head of three, a line each, foot: none is folded
    assert [[cell.strip() for cell in line.strip("│").split("│")] for line in lines[4:7]] == [
        ["demo-gpu", "llama3.1", "-", "-", "-", "-", "-", "none yet"],
        ["demo-gpu", "llama3.1", "Scripted GPU", "102.4 of 100", "68.0", "0.125 s", "2 s", "good"],
        ["demo-gpu", "llama3.1", "Scripted GPU", "-", "-", "-", "-", "out_of_memory"],
    ]
