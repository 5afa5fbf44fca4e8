"""A reader of another vendor's GPU: everything that a new vendor has to provide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from exporter.gpu.base import Card, Counters, Sample

NAME = "AMD Radeon RX 7900 XTX"
CARD = Card(uuid="f00d", name=NAME, index=0, pci_bus_id="0000:0c:00.0", vendor="AMD", driver_version="6.16")


@dataclass
class OtherCardReader:
    """A GPU that is idle in the first sample and busy in all others, with the given processes."""

    card: Card = CARD
    pids: Mapping[int, int | None] = field(default_factory=dict)
    watts: float = 300.0
    started: bool = False

    def sample(self, at: float) -> Sample:
        """Return 10 W at first, then the power of a GPU that generates if a process is on it."""
        watts = self.watts if self.started and self.pids else 10.0
        self.started = True
        return Sample(at=at, utilization_ratio=0.95 if watts > 10 else 0.0, power_watts=watts)

    def counters(self, clock: Callable[[], float]) -> Counters:
        """Return no counters: sysfs of many GPUs has none."""
        return Counters(at=clock())

    def processes(self) -> Mapping[int, int | None]:
        """Return the processes."""
        return self.pids

    def shares(self, since: float) -> Mapping[int, float] | None:  # noqa: ARG002 - this GPU does not report shares
        """Return None: unknown."""
        return None

    def memory_used(self) -> int | None:
        """Return 8 GiB."""
        return 8 * 2**30


@dataclass
class OtherReader:
    """The GPUs of another vendor."""

    cards: tuple[OtherCardReader, ...] = field(default_factory=lambda: (OtherCardReader(),))
    closed: bool = False

    def close(self) -> None:
        """Record that it was closed."""
        self.closed = True
