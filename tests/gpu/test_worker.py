"""The room's one thread: a driver that hangs or breaks fails no probe."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.gpu_stage import H100, LOG, Stage

from exporter.gpu.monitor import NvidiaMonitor
from exporter.gpu.worker import Worker


@pytest.fixture
def one(tmp_path: Path) -> Stage:
    """One H100."""
    return Stage("nvml-h100.json", tmp_path)


@pytest.fixture
async def gpus(one: Stage) -> AsyncIterator[NvidiaMonitor]:
    """The room of the one H100."""
    room = await one.open()
    yield room
    await room.close()


async def test_a_hung_driver_holds_up_nothing(one: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A probe waits for a driver once; later ones not at all, until it answers again."""
    gpus = await one.open()
    assert (await one.probe(gpus, "alone")).state is not None
    gpus._worker._answer_seconds = 0.05
    hung = threading.Event()

    def hang(answer: Any) -> Any:
        hung.wait(30)
        return answer

    one.replay.changes["nvmlDeviceGetMemoryInfo"] = hang
    for _ in range(3):
        seen = await one.probe(gpus, "alone")
        assert (seen.label, seen.state, seen.contended) == (H100, None, {})
    assert caplog.text.count("did not answer within 0.05 s") == 1
    hung.set()
    gpus._worker._answer_seconds = 10
    await asyncio.wrap_future(gpus._worker.submit(lambda: None))
    assert (await one.probe(gpus, "alone")).state is not None
    await gpus.close()


async def test_a_driver_that_breaks_fails_no_probe(
    one: Stage, gpus: NvidiaMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """Even an error that NVML does not know leaves a reading, and its traceback in the log."""

    def broken(_answer: Any) -> Any:
        raise OSError("libnvidia-ml went away")

    one.replay.changes["nvmlDeviceGetMemoryInfo"] = broken
    seen = await one.probe(gpus, "alone")
    assert (seen.label, seen.state) == (H100, None)
    assert "libnvidia-ml went away" in caplog.text


async def test_what_is_told_to_the_thread_and_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is swallowed, also where nobody waits for the answer."""
    worker = Worker(LOG)
    worker.tell(lambda: 1 / 0)
    assert await worker.ask(lambda: "still here") == "still here"
    assert "division by zero" in caplog.text
    worker.close()
