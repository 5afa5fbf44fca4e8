"""Which GPU ran a model, and how it fared meanwhile: the seam between a probe and a vendor's library.

A second vendor fits in as another `GpuMonitor`, chosen in `open_gpu_monitor`. The rules that
hold for any vendor (who ran the model, who else was there, what is remembered) are in `attribution`, `contention` and
`labels`, and read the plain values of `evidence`. A reader for AMD's sysfs would have to provide, for each card under
`/sys/class/drm/card*/device`:

* identity: `unique_id` as the uuid, the marketing name (`product_name`), the PCI address and the driver's version;
* a sample that costs well under a millisecond: `gpu_busy_percent`, the shader clock (`hwmon/*/freq1_input`), the
  highest of `temp*_input`, and power (`power1_average`, or `power1_input` where the card has it);
* counters read at the first token and at the last, where there are any: energy (`energy1_input`, microjoules) and the
  throttle times of `gpu_metrics`; without them the samples are integrated, as for an NVIDIA card that has none;
* which processes hold memory on the card and their engine time (`drm-engine-compute` and `drm-memory-vram` in
  `/proc/<pid>/fdinfo/*`, matched by `drm-pdev`), which gives the mean share of each process during a probe;
* memory in use (`mem_info_vram_used`), and bus width and memory clock for the peak bandwidth.

It is not built: no figure of it has been seen on such a card.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from exporter.plan import ModelKey
from exporter.reading import GpuObservation


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One card of this machine."""

    uuid: str
    name: str
    index: int
    pci_bus_id: str
    vendor: str
    driver_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedModel:
    """What is known of a model that is about to be probed."""

    key: ModelKey
    local: bool
    """Whether its server runs on this machine."""
    configured: str | None
    """The operator's name for the card."""
    blob: str | None
    """Hex digest of the model's file, from the `FROM` line of `/api/show`; the runner's command line holds it."""
    size_bytes: int | None
    size_vram_bytes: int | None
    """What `/api/ps` claims; it can be wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """How the `gpu` label of a model would be chosen now, and why so."""

    label: str
    reason: str


class Watch(Protocol):
    """One probe being watched. Its methods are called on the event loop and return at once, but for `finish`."""

    def first_token(self) -> None:
        """Say that the first text has just arrived: the state to report begins here."""

    async def finish(self) -> GpuObservation:
        """End the watch at the last token and return what was seen. Never raises for what a card cannot tell."""

    def abandon(self) -> None:
        """End the watch of a probe that failed or was cancelled."""


class GpuMonitor(Protocol):
    """The cards of this machine."""

    def cards(self) -> tuple[Card, ...]:
        """Return the cards found at start."""

    async def watch(self, subject: ProbedModel) -> Watch:
        """Begin to watch, just before the request is sent."""

    async def explain(self, subject: ProbedModel) -> Explanation:
        """Return how the label would be chosen from what can be seen now, without a probe."""

    def forget(self, key: ModelKey) -> None:
        """Drop what is remembered of a pair that left the configuration."""

    async def close(self) -> None:
        """Release the vendor's library."""


async def open_gpu_monitor(log: logging.Logger) -> GpuMonitor:
    """Return the cards of this machine, or none. What was found is said once, at info level; nothing is raised."""
    from exporter.gpu.monitor import open_nvidia  # noqa: PLC0415 - likewise
    from exporter.gpu.none import NoGpuMonitor  # noqa: PLC0415 - it imports this module
    from exporter.gpu.nvidia import NoDriverError  # noqa: PLC0415 - likewise

    try:
        return await open_nvidia(log)
    except NoDriverError as error:
        log.info("no GPU can be read here, so the gpu label is the configured one or the server's claim: %s", error)
        return NoGpuMonitor()
