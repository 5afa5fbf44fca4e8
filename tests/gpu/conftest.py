"""Recorded machines, and monitors of their GPUs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.recorded_gpus import Machine

from exporter.gpu.monitor import GpuMonitor


@pytest.fixture
def one() -> Machine:
    """Return a machine with one H100."""
    return Machine("nvml-h100.json")


@pytest.fixture
def two() -> Machine:
    """Return a machine with two H100s."""
    return Machine("nvml-2xh100.json")


@pytest.fixture
async def monitor(one: Machine) -> AsyncIterator[GpuMonitor]:
    """Yield a monitor of the machine with one H100."""
    monitor = one.open()
    yield monitor
    await monitor.close()


@pytest.fixture
async def monitor_of_two(two: Machine) -> AsyncIterator[GpuMonitor]:
    """Yield a monitor of the machine with two H100s."""
    monitor = two.open()
    yield monitor
    await monitor.close()
