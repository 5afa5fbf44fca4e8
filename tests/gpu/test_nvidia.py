"""Opening NVIDIA's driver, and whose cards it shows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pynvml
import pytest
from support.gpu_stage import H100, LOG, Stage, fails

from exporter.gpu.base import open_gpu_monitor
from exporter.gpu.monitor import open_nvidia
from exporter.gpu.none import NoGpuMonitor
from exporter.gpu.nvidia import NoDriverError


@pytest.fixture
def one(tmp_path: Path) -> Stage:
    """One H100."""
    return Stage("nvml-h100.json", tmp_path)


@pytest.fixture
def two(tmp_path: Path) -> Stage:
    """Two H100s."""
    return Stage("nvml-2xh100.json", tmp_path)


async def test_without_a_driver_the_daemon_runs_on(caplog: pytest.LogCaptureFixture) -> None:
    """No driver on this machine: nothing is raised, and it is said once, at info level."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        pass
    else:
        pytest.skip("this machine has a card")
    with caplog.at_level(logging.INFO):
        gpus = await open_gpu_monitor(LOG)
    assert isinstance(gpus, NoGpuMonitor)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "no GPU can be read here" in caplog.text


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
async def test_a_driver_that_refuses_is_none(one: Stage, code: int) -> None:
    """A driver that lets nobody in is no driver, and the message says why."""
    one.replay.changes["nvmlInit"] = fails(code)
    with pytest.raises(NoDriverError, match=r"NVML: (Insufficient Permissions|Driver Not Loaded)"):
        await one.open()


async def test_cards_that_may_not_be_opened_are_not_there(two: Stage) -> None:
    """Without permission for any of the cards (a container without devices) there is none."""
    two.replay.changes["nvmlDeviceGetHandleByIndex"] = fails(pynvml.NVML_ERROR_NO_PERMISSION)
    with pytest.raises(NoDriverError, match="shows no card to this user"):
        await two.open()


async def test_a_library_that_is_missing_is_none() -> None:
    """Whatever goes wrong at opening is told as a missing driver."""

    def missing() -> Any:
        raise ImportError("No module named 'pynvml'")

    with pytest.raises(NoDriverError, match="NVML: No module named 'pynvml'"):
        await open_nvidia(LOG, missing)


async def test_identity(one: Stage, two: Stage) -> None:
    """Each card by name, uuid as NVML gives it, PCI address and driver."""
    gpus, pair_gpus = await one.open(), await two.open()
    card = gpus.cards()[0]
    assert (card.name, card.vendor, card.driver_version) == (H100, "NVIDIA", "580.159.04")
    assert card.uuid.startswith("GPU-")
    assert card.pci_bus_id == "00000000:00:06.0"
    assert [card.index for card in pair_gpus.cards()] == [0, 1]
    assert len({card.uuid for card in pair_gpus.cards()}) == 2
    await gpus.close()
    await pair_gpus.close()
