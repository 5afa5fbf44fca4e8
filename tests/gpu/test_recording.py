"""When the driver is asked what during a probe, on a driver that is made up: one card, two processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from exporter.gpu.nvidia import Nvml
from exporter.gpu.processes import Processes
from exporter.gpu.recording import Clock, Recording


@dataclass
class Driver:
    """A driver that times processes in periods of 0.2 s, as real ones do, and does not know the rest."""

    now: float = 1000.0
    busy: dict[int, tuple[float, float]] = field(default_factory=dict)
    """By pid: from when to when it had all of the SMs."""
    ended: set[int] = field(default_factory=set)
    asked: list[tuple[float, float]] = field(default_factory=list)
    """When SM times were asked for, and since when."""

    def __getattr__(self, name: str) -> Any:
        """Return NVML's constants; functions that are not made up are not supported."""
        known = getattr(pynvml, name)
        if not name.startswith("nvml") or isinstance(known, int):
            return known
        return self.unsupported

    def unsupported(self, *_: Any) -> Any:
        """Fail as a card does that cannot tell."""
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlInit(self) -> None:  # noqa: N802
        """Open."""

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Return one."""
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        """Return the index."""
        return index

    def nvmlDeviceGetComputeRunningProcesses(self, _handle: int) -> list[Any]:  # noqa: N802
        """Return who is there now."""
        return [SimpleNamespace(pid=pid, usedGpuMemory=pid) for pid in self.busy if pid not in self.ended]

    def nvmlDeviceGetProcessUtilization(self, _handle: int, since: int) -> list[Any]:  # noqa: N802
        """Return the mean share of each living process over the periods that ended after `since`."""
        self.asked.append((round(self.now - 1000, 3), round(since / 1e6 - 1000, 3)))
        ends = [1000 + 0.2 * step for step in range(-10, 1000) if since / 1e6 < 1000 + 0.2 * step <= self.now]
        shares = {
            pid: sum(begin < end - 0.1 < finish for end in ends) / max(1, len(ends))
            for pid, (begin, finish) in self.busy.items()
            if pid not in self.ended
        }
        if not any(shares.values()):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return [
            SimpleNamespace(pid=pid, smUtil=round(share * 100), timeStamp=int(ends[-1] * 1e6))
            for pid, share in shares.items()
            if share
        ]


def watch(driver: Driver, tmp_path: Path, seconds: float, ends: dict[int, float] | None = None) -> Any:
    """Record a probe of so many seconds and return the card's evidence; processes end when told."""
    clock = Clock(lambda: driver.now, lambda: driver.now)
    nvml = Nvml(driver)
    recording = Recording(nvml, Processes(tmp_path), clock, None)
    recording.first_token()
    begin = driver.now
    step = 0.25
    while driver.now + step < begin + seconds:
        driver.now += step
        driver.ended |= {pid for pid, at in (ends or {}).items() if at <= driver.now}
        recording.add([nvml.sample(0, driver.now)])
    driver.now = begin + seconds
    return recording.end().cards[0]


def test_shares_are_means_over_the_whole_probe(tmp_path: Path) -> None:
    """However many times the driver was asked: half of the time is half, whenever it was."""
    driver = Driver(busy={1: (0, 2000), 2: (1002.5, 1005.0)})
    shares = watch(driver, tmp_path, 5.0).shares
    assert shares[1] == pytest.approx(1, abs=0.01)
    assert shares[2] == pytest.approx(2.5 / 4.75, abs=0.06)


def test_the_driver_is_asked_every_two_seconds_for_what_is_new(tmp_path: Path) -> None:
    """Each time since the time before, beginning when the first whole period of the probe has begun."""
    driver = Driver(busy={1: (0, 2000)})
    watch(driver, tmp_path, 5.0)
    assert driver.asked == [(2.25, 0.25), (4.25, 2.25), (5.0, 4.25)]


def test_what_went_before_the_probe_is_not_counted(tmp_path: Path) -> None:
    """The period in which the probe began also holds what the probe before did."""
    driver = Driver(now=1000.05, busy={1: (1000.05, 2000), 2: (0, 1000.04)})
    assert watch(driver, tmp_path, 2.0).shares == {1: pytest.approx(1, abs=0.01)}


def test_a_process_that_ended_is_remembered(tmp_path: Path) -> None:
    """The driver forgets it, but it was seen while it was there."""
    driver = Driver(busy={1: (0, 2000), 2: (1001, 1002.4)})
    card = watch(driver, tmp_path, 4.0, ends={2: 1002.5})
    assert card.shares[2] > 0.1
    assert card.processes == {1: 1, 2: 2}


def test_a_short_probe_of_which_nothing_was_told(tmp_path: Path) -> None:
    """Silence over less than half a second is no evidence that nobody was there; over more it is."""
    assert watch(Driver(), tmp_path, 0.2).shares is None
    assert watch(Driver(), tmp_path, 0.6).shares is None
    assert watch(Driver(), tmp_path, 1.5).shares == {}
