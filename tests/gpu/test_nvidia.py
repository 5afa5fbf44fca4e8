"""The NVML reader, on recorded answers and on answers that NVML should not give but can."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import pynvml
import pytest
from support.recorded_gpus import H100, Machine, fails

from exporter.gpu.base import CardReader, ReaderUnavailableError
from exporter.gpu.nvidia import NvidiaReader, open_reader
from exporter.reading import ThrottleReason

NOT_SUPPORTED = fails(pynvml.NVML_ERROR_NOT_SUPPORTED)


def reader(machine: Machine) -> CardReader:
    """Return a reader of a machine's first GPU, while it generates."""
    machine.play("alone")
    return NvidiaReader(machine.replay).cards[0]


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_a_driver_that_refuses_is_unavailable(one: Machine, code: int) -> None:
    """The error contains NVML's own message."""
    one.replay.changes["nvmlInit"] = fails(code)
    with pytest.raises(ReaderUnavailableError, match=str(pynvml.NVMLError(code))):
        NvidiaReader(one.replay)


def test_without_permission_for_any_gpu_the_reader_is_unavailable(two: Machine) -> None:
    """As in a container without devices: NVML is shut down again."""
    shut: list[None] = []
    two.replay.changes["nvmlDeviceGetHandleByIndex"] = fails(pynvml.NVML_ERROR_NO_PERMISSION)
    two.replay.changes["nvmlShutdown"] = shut.append
    with pytest.raises(ReaderUnavailableError):
        NvidiaReader(two.replay)
    assert shut == [None]


def test_an_unexpected_error_shuts_nvml_down(one: Machine) -> None:
    """It is passed on: `detect` logs it."""
    shut: list[None] = []
    one.replay.changes["nvmlDeviceGetPciInfo"] = lambda _: {"unexpected": 0}
    one.replay.changes["nvmlShutdown"] = shut.append
    with pytest.raises(AttributeError):
        NvidiaReader(one.replay)
    assert shut == [None]


def test_without_the_library_the_reader_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-ml-py is not installed."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ReaderUnavailableError, match="pynvml"):
        open_reader()


def test_what_identifies_a_gpu(one: Machine, two: Machine) -> None:
    """Its name, its uuid as NVML reports it, PCI address, driver, clock and bandwidth; its index with two GPUs."""
    card = NvidiaReader(one.replay).cards[0].card
    assert (card.name, card.vendor, card.driver_version) == (H100, "NVIDIA", "580.159.04")
    assert card.uuid.startswith("GPU-")
    assert card.pci_bus_id == "00000000:00:06.0"
    assert card.clock_max_hertz == 1.98e9
    assert card.peak_bandwidth_bytes_per_second == pytest.approx(5120 * 2619e6 * 2 / 8)
    assert not card.partitioned
    cards = [each.card for each in NvidiaReader(two.replay).cards]
    assert [card.index for card in cards] == [0, 1]
    assert len({card.uuid for card in cards}) == 2


def test_mig_mode_is_a_partitioned_gpu(one: Machine) -> None:
    """NVML reports the current and the pending mode."""
    one.replay.changes["nvmlDeviceGetMigMode"] = lambda _: [1, 0]
    assert NvidiaReader(one.replay).cards[0].card.partitioned


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0x4, {ThrottleReason.SW_POWER_CAP}),
        (0x8, {ThrottleReason.HW_SLOWDOWN}),
        (0x20 | 0x40, {ThrottleReason.SW_THERMAL, ThrottleReason.HW_THERMAL}),
        (0x80 | 0x1, {ThrottleReason.HW_POWER_BRAKE}),
        (0x1 | 0x2 | 0x10 | 0x100, set()),
    ],
)
def test_clock_event_reasons(one: Machine, bits: int, reasons: set[ThrottleReason]) -> None:
    """Bits that do not mean a reduced clock, such as idle (0x1), are not throttle reasons."""
    one.replay.changes["nvmlDeviceGetCurrentClocksEventReasons"] = lambda _: bits
    assert set(reader(one).sample(0.0).throttled or ()) == reasons


def test_units(one: Machine) -> None:
    """NVML reports percent, MHz, milliwatts, millijoules and nanoseconds."""
    one.replay.changes["nvmlDeviceGetUtilizationRates"] = lambda _: {"gpu": 57}
    one.replay.changes["nvmlDeviceGetClockInfo"] = lambda _: 1665
    one.replay.changes["nvmlDeviceGetTemperature"] = lambda _: 61
    one.replay.changes["nvmlDeviceGetFieldValues"] = NOT_SUPPORTED
    one.replay.changes["nvmlDeviceGetPowerUsage"] = lambda _: 250_070
    card = reader(one)
    sample = card.sample(7.0)
    assert (sample.at, sample.utilization_ratio, sample.clock_hertz) == (7.0, 0.57, 1.665e9)
    assert (sample.temperature_celsius, sample.power_watts) == (61, 250.07)
    one.replay.changes["nvmlDeviceGetFieldValues"] = lambda _: [
        {"fieldId": number, "return": 0, "type": 3, "value": value} for number, value in ((83, 1500), (74, 2 * 10**9))
    ]
    counters = card.counters(lambda: 8.0)
    assert (counters.at, counters.energy_joules) == (8.0, 1.5)
    assert counters.throttled_seconds == {ThrottleReason.SW_POWER_CAP: 2.0}


def test_without_fields_energy_and_power_have_their_own_calls(one: Machine) -> None:
    """Old GPUs report no field values."""
    one.replay.changes["nvmlDeviceGetFieldValues"] = NOT_SUPPORTED
    one.replay.changes["nvmlDeviceGetTotalEnergyConsumption"] = lambda _: 3000
    one.replay.changes["nvmlDeviceGetPowerUsage"] = lambda _: 4000
    card = reader(one)
    assert card.counters(lambda: 0.0).energy_joules == 3
    assert card.sample(0.0).power_watts == 4


def field_values(value: float) -> list[Mapping[str, Any]]:
    """Return every field value that is read, as a double."""
    return [{"fieldId": n, "return": 0, "type": 0, "value": value} for n in (83, 186, 74, 269, 270, 271)]


@pytest.mark.parametrize("bad", [-1, -0.5, math.nan, math.inf])
def test_numbers_that_are_negative_or_not_finite_are_unknown(one: Machine, bad: float) -> None:
    """Whatever NVML answers, no value, no counter and no property of a GPU is such a number."""
    changes = one.replay.changes
    changes["nvmlDeviceGetUtilizationRates"] = lambda _: {"gpu": bad}
    changes["nvmlDeviceGetMemoryInfo"] = lambda _: {"used": bad}
    changes["nvmlDeviceGetComputeRunningProcesses"] = lambda _: [{"pid": 7, "usedGpuMemory": bad}]
    changes["nvmlDeviceGetProcessUtilization"] = lambda _: [{"pid": 7, "smUtil": bad}, {"pid": 8, "smUtil": 50}]
    changes["nvmlDeviceGetFieldValues"] = lambda _: field_values(bad)
    for name in ("ClockInfo", "MaxClockInfo", "Temperature", "PowerUsage", "MemoryBusWidth", "TotalEnergyConsumption"):
        changes[f"nvmlDeviceGet{name}"] = lambda _: bad
    changes["nvmlDeviceGetCurrentClocksEventReasons"] = NOT_SUPPORTED
    card = reader(one)
    assert (card.card.clock_max_hertz, card.card.peak_bandwidth_bytes_per_second) == (None, None)
    assert card.sample(0.0).empty
    assert card.counters(lambda: 0.0).energy_joules is None
    assert card.counters(lambda: 0.0).throttled_seconds == {}
    assert card.processes() == {7: None}
    assert card.shares(0.0) == {8: 0.5}
    assert card.memory_used() is None


def test_what_is_not_supported_is_unknown(one: Machine) -> None:
    """No method raises, and nothing is invented."""
    card = reader(one)
    for name in dir(pynvml):
        if name.startswith("nvmlDevice"):
            one.replay.changes[name] = NOT_SUPPORTED
    assert card.sample(0.0).empty
    assert (card.processes(), card.shares(0.0), card.memory_used()) == (None, None, None)


def test_no_new_shares_are_empty(one: Machine) -> None:
    """NVML answers "not found" if no process used the GPU since then."""
    one.replay.changes["nvmlDeviceGetProcessUtilization"] = fails(pynvml.NVML_ERROR_NOT_FOUND)
    assert reader(one).shares(0.0) == {}


def test_graphics_processes_are_listed_too(one: Machine) -> None:
    """A Vulkan runner is among them."""
    one.replay.changes["nvmlDeviceGetComputeRunningProcesses"] = lambda _: [{"pid": 1, "usedGpuMemory": 5}]
    one.replay.changes["nvmlDeviceGetGraphicsRunningProcesses"] = lambda _: [{"pid": 2, "usedGpuMemory": 6}]
    assert reader(one).processes() == {1: 5, 2: 6}
