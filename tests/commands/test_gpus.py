"""What the command `gpus` shows."""

from __future__ import annotations

from pathlib import Path

from support.gpu_stage import H100, OTHER_MODEL, Stage, subject

from exporter.commands.gpus import CARD_COLUMNS, LABEL_COLUMNS, describe
from exporter.gpu.none import NoGpuMonitor
from exporter.reading import UNKNOWN


async def test_cards_and_labels(tmp_path: Path) -> None:
    """A row for each card, and for each model its label and the reason."""
    stage = Stage("nvml-2xh100.json", tmp_path)
    gpus = await stage.open()
    stage.play("two_cards")
    report = await describe(gpus, [subject(), subject(blob=OTHER_MODEL), subject(local=False)])
    await gpus.close()
    assert [row[:2] for row in report.cards] == [("0", H100), ("1", H100)]
    assert all(len(row) == len(CARD_COLUMNS) for row in report.cards)
    assert [row[2] for row in report.labels] == [f"2x {H100}", H100, UNKNOWN]
    assert report.labels[0] == (
        "here",
        "llama3.1",
        f"2x {H100}",
        f"its runner (pid {stage.runner('two_cards')}) is on card 0 and card 1",
    )
    assert all(len(row) == len(LABEL_COLUMNS) for row in report.labels)


async def test_without_a_card() -> None:
    """No card is an empty table, and each label still has its reason."""
    report = await describe(NoGpuMonitor(), [subject()])
    assert report.cards == ()
    assert report.labels[0][2:] == (
        UNKNOWN,
        "no card of its machine can be read from here; set `gpu` of the target",
    )
