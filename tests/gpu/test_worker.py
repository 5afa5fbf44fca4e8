"""The worker thread: a GPU library that hangs or fails does not fail a probe."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from support.recorded_gpus import H100, Machine

from exporter.gpu.monitor import GpuMonitor
from exporter.gpu.worker import Worker


async def test_a_library_that_hangs_delays_one_probe(
    one: Machine, monitor: GpuMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """A probe waits for it once; later probes do not wait until it answers again. The label stays."""
    assert (await one.probe(monitor, "alone")).state is not None
    monitor._worker._answer_seconds = 0.05
    released = threading.Event()

    def hang(answer: Any) -> Any:
        released.wait(30)
        return answer

    one.replay.changes["nvmlDeviceGetMemoryInfo"] = hang
    for _ in range(3):
        observation = await one.probe(monitor, "alone")
        assert (observation.label, observation.state, observation.contended) == (H100, None, {})
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    released.set()
    monitor._worker._answer_seconds = 10
    await asyncio.wrap_future(monitor._worker.submit(lambda: None))
    assert (await one.probe(monitor, "alone")).state is not None


async def test_a_library_that_fails_fails_no_probe(
    one: Machine, monitor: GpuMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """Even an error that NVML does not define leaves an observation, and its traceback in the log."""

    def broken(_answer: Any) -> Any:
        raise OSError("libnvidia-ml disappeared")

    one.replay.changes["nvmlDeviceGetMemoryInfo"] = broken
    observation = await one.probe(monitor, "alone")
    assert (observation.label, observation.state) == (H100, None)
    assert "libnvidia-ml disappeared" in caplog.text


async def test_a_posted_call_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With its traceback, and the worker continues."""
    worker = Worker()
    worker.post(lambda: 1 / 0)
    assert await worker.ask(lambda: "result") == "result"
    assert "division by zero" in caplog.text
    worker.close()


async def test_the_thread_starts_with_the_first_call() -> None:
    """A machine without GPUs has no such thread, and the worker can be closed."""
    before = threading.active_count()
    worker = Worker()
    worker.close()
    assert threading.active_count() == before
