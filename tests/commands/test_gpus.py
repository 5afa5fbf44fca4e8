"""What `gpus` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from support.probing import model_plan, target_plan
from support.recorded_gpus import H100, OTHER_MODEL, Machine, probed_model

from exporter.commands.gpus import print_cards, print_labels, show_gpus
from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel
from exporter.gpu.detect import OPENERS
from exporter.plan import ModelKey
from exporter.reading import UNKNOWN


def printed(function: Callable[[Console], None]) -> list[list[str]]:
    """Return the rows that a function prints as a table, or the text that it prints instead."""
    console = Console(file=StringIO(), width=300)
    function(console)
    assert isinstance(console.file, StringIO)
    lines = [line for line in console.file.getvalue().splitlines() if line[:1] not in "┏┡└"]
    return [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines]


async def test_gpus_and_labels() -> None:
    """A row for each GPU; for each model its label and why."""
    machine = Machine("nvml-2xh100.json")
    monitor = machine.open()
    machine.play("two_cards")
    models = [
        probed_model(),
        probed_model(key=ModelKey("here", "b"), blob=OTHER_MODEL),
        probed_model(key=ModelKey("there", "c"), local=False),
    ]
    choices = {model.key: await monitor.explain(model) for model in models}
    await monitor.close()

    header, *rows = printed(lambda console: print_cards(console, monitor.cards()))
    assert header == ["index", "name", "uuid", "pci bus id", "vendor", "driver"]
    assert rows == [
        [str(card.index), H100, card.uuid, card.pci_bus_id, "NVIDIA", "580.159.04"] for card in monitor.cards()
    ]
    header, *rows = printed(lambda console: print_labels(console, choices))
    assert header == ["target", "model", "gpu", "why"]
    assert [row[:3] for row in rows] == [
        ["here", "llama3.1", f"2x {H100}"],
        ["here", "b", H100],
        ["there", "c", UNKNOWN],
    ]
    assert f"pid {machine.runner('two_cards')}" in rows[0][3]
    assert all(row[3] for row in rows)


@pytest.fixture
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open no reader."""
    monkeypatch.setitem(OPENERS, "NVIDIA", _unavailable)


def _unavailable() -> Mapping[str, str]:
    raise OSError("no driver")


@pytest.mark.usefixtures("no_gpus")
async def test_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    """It says so, prints how each label of a local target is chosen, and names the targets elsewhere."""
    async with OllamaServer(ScriptedEngine([ScriptedModel("llama3.1")])) as server:
        local = target_plan(server.url, model_plan(), local=True, gpu="My Card")
        remote = replace(local, name="far", local=False)
        status = await show_gpus([local, remote], Console(width=200))

    text = capsys.readouterr().out
    assert status == 0
    assert "No GPU" in text
    assert "My Card" in text
    assert text.rstrip().endswith(": far")


@pytest.mark.usefixtures("no_gpus")
async def test_a_local_target_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """Its failure is printed, the other targets are still shown, and the exit status is 1."""
    async with OllamaServer(ScriptedEngine([ScriptedModel("llama3.1")])) as server:
        up = target_plan(server.url, model_plan(), local=True, gpu="My Card")
        down = target_plan("http://127.0.0.1:1", model_plan(), local=True, name="down")
        status = await show_gpus([down, up], Console(width=200))

    text = capsys.readouterr().out
    assert status == 1
    assert any(line.startswith("down failed: connect") for line in text.splitlines())
    assert "My Card" in text
