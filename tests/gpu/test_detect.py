"""Which readers are opened."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from support.other_vendor import NAME, OtherReader
from support.recorded_gpus import H100, Machine

from exporter.gpu import detect
from exporter.gpu.base import GpuReader, Opener, ReaderUnavailableError
from exporter.gpu.detect import OPENERS, open_gpu_monitor
from exporter.gpu.nvidia import NvidiaReader


def unavailable() -> GpuReader:
    """Fail as if there were no driver."""
    raise ReaderUnavailableError("no driver")


def broken() -> GpuReader:
    """Fail with an unexpected error."""
    raise OSError("wrong ELF class")


def fields(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return the fields of a log record."""
    return record.fields  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("opener", [unavailable, broken])
async def test_without_a_library_the_monitor_has_no_gpus(opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is raised, and the reason is logged once, at level info."""
    with caplog.at_level(logging.INFO):
        monitor = await open_gpu_monitor({"X": opener})
    assert monitor.cards() == ()
    assert [(record.levelname, fields(record)["vendor"]) for record in caplog.records] == [("INFO", "X")]
    assert fields(caplog.records[0])["reason"] in {"no driver", "wrong ELF class"}
    await monitor.close()


async def test_gpus_of_two_vendors(caplog: pytest.LogCaptureFixture) -> None:
    """Both are found, and a third vendor's missing library prevents neither."""
    machine = Machine("nvml-2xh100.json")
    openers = {"X": unavailable, "NVIDIA": lambda: NvidiaReader(machine.replay), "AMD": OtherReader}
    with caplog.at_level(logging.INFO):
        monitor = await open_gpu_monitor(openers)
    assert [(card.index, card.name) for card in monitor.cards()] == [(0, H100), (1, H100), (2, NAME)]
    found = [fields(record)["gpu"] for record in caplog.records if "index" in fields(record)]
    assert found == [H100, H100, NAME]
    await monitor.close()


async def test_a_driver_that_hangs_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time limit it is ignored. The others are opened at the same time."""
    monkeypatch.setattr(detect, "OPEN_SECONDS", 0.1)
    released = threading.Event()

    def hang() -> GpuReader:
        released.wait(30)
        return OtherReader()

    monitor = await open_gpu_monitor({"X": hang, "AMD": OtherReader})
    released.set()
    assert [card.name for card in monitor.cards()] == [NAME]
    await monitor.close()


async def test_this_machine() -> None:
    """The real openers raise nothing, with or without GPUs. Every GPU is of a vendor that has an opener."""
    monitor = await open_gpu_monitor()
    assert {card.vendor for card in monitor.cards()} <= set(OPENERS)
    await monitor.close()
