"""Types that the GPU package shares, and what a reader of one vendor's GPUs has to provide.

To add a vendor, write one module with a `GpuReader` and add its opener to `exporter.gpu.detect.OPENERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from exporter.plan import ModelKey
from exporter.reading import ThrottleReason, check_numbers


class ReaderUnavailableError(Exception):
    """The GPUs of one vendor cannot be read. The message is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One GPU of this machine: its constant properties. Empty or None means unknown."""

    uuid: str
    name: str
    """Product name, as the `gpu` label shows it."""
    index: int
    pci_bus_id: str
    vendor: str
    driver_version: str
    partitioned: bool = False
    """Whether it is divided into instances that appear to programs as separate GPUs (NVIDIA: MIG)."""
    clock_max_hertz: float | None = None
    peak_bandwidth_bytes_per_second: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_numbers(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The state of one GPU at one moment. None means that the GPU does not report it."""

    at: float
    """`time.monotonic` seconds."""
    utilization_ratio: float | None = None
    clock_hertz: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    throttled: frozenset[ThrottleReason] | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_numbers(self)

    @property
    def empty(self) -> bool:
        """Whether the GPU reported no value."""
        values = (self.utilization_ratio, self.clock_hertz, self.temperature_celsius, self.power_watts, self.throttled)
        return all(value is None for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The cumulative counters of one GPU at one moment."""

    at: float
    """`time.monotonic` seconds."""
    energy_joules: float | None = None
    throttled_seconds: Mapping[ThrottleReason, float] = field(default_factory=dict)
    """Only the reasons that the GPU counts."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_numbers(self)


class CardReader(Protocol):
    """Reads one GPU. No method raises for what the GPU does not report, and each may block.

    Numbers that are negative or not finite are None: see `convert`.
    """

    @property
    def card(self) -> Card:
        """The GPU. Its index counts the GPUs of this vendor."""

    def sample(self, at: float) -> Sample:
        """Return the current state. `at` is the caller's clock.

        Called about four times a second during a probe, so it should take well under a millisecond.
        """

    def counters(self, clock: Callable[[], float]) -> Counters:
        """Return the counters and when they were read by `clock`. Called at the first token and at the last.

        Without an energy counter, the sampled power is integrated. Without a counter for a throttle reason, its share
        of the samples is used.
        """

    def processes(self) -> Mapping[int, int | None] | None:
        """Return the memory of each process on the GPU in bytes, by pid; None if processes cannot be listed."""

    def shares(self, since: float) -> Mapping[int, float] | None:
        """Return the mean share of the GPU's compute time that each process used since `since` (Unix seconds), by pid.

        Empty if nothing is known since then; None if the GPU does not report it.
        """

    def memory_used(self) -> int | None:
        """Return the memory in use on the GPU in bytes, by all processes together."""


class GpuReader(Protocol):
    """Reads the GPUs of one vendor. It is called from one thread at a time, never from the event loop."""

    @property
    def cards(self) -> Sequence[CardReader]:
        """A reader for each GPU that can be read."""

    def close(self) -> None:
        """Release the vendor's library."""


Opener = Callable[[], GpuReader]
"""Opens the reader of one vendor. Raises ReaderUnavailableError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedModel:
    """What is known about a model before it is probed."""

    key: ModelKey
    local: bool
    """Whether its server runs on this machine."""
    configured: str | None
    """The target's `gpu` setting."""
    blob: str | None
    """Hex digest of the model's file, from the `FROM` line of `/api/show`; the runner's command line contains it."""
    size_vram_bytes: int | None
    """What `/api/ps` reports; it can be wrong."""


def convert(value: float | None, *, times: float = 1, per: float = 1) -> float | None:
    """Return what a library reports in base units: `value * times / per`.

    None if the value is None, negative or not finite, because no metric may have such a value.
    """
    if value is None or not 0 <= value < math.inf:
        return None
    return value * times / per
