"""Opens the GPU libraries that are present on this machine, which can have GPUs of several vendors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from exporter.background import run_in_daemon_thread
from exporter.gpu import nvidia
from exporter.gpu.base import GpuReader, Opener
from exporter.gpu.monitor import GpuMonitor
from exporter.logs import get_logger

OPENERS: Mapping[str, Opener] = {"NVIDIA": nvidia.open_reader}
"""By vendor."""
OPEN_SECONDS = 10.0
"""How long a driver may take to initialise its GPUs: seconds, if NVIDIA's persistence mode is off."""

log = get_logger(__name__)


async def open_gpu_monitor(openers: Mapping[str, Opener] = OPENERS) -> GpuMonitor:
    """Return a monitor of all GPUs of this machine that can be read, if any. Never raises; what is found is logged."""
    monitor = GpuMonitor(await open_readers(openers))
    for card in monitor.cards():
        log.info(
            "GPU found",
            index=card.index,
            gpu=card.name,
            uuid=card.uuid,
            vendor=card.vendor,
            driver_version=card.driver_version,
        )
    return monitor


async def open_readers(openers: Mapping[str, Opener] = OPENERS) -> tuple[GpuReader, ...]:
    """Return the readers of all vendors whose GPUs can be read. Never raises; failures are logged."""
    readers = await asyncio.gather(*(_open(vendor, opener) for vendor, opener in openers.items()))
    return tuple(reader for reader in readers if reader is not None)


async def _open(vendor: str, opener: Opener) -> GpuReader | None:
    """Open a reader in its own thread, so that a library that hangs delays neither the other readers nor the exit."""
    try:
        return await asyncio.wait_for(run_in_daemon_thread(opener, f"open {vendor}"), OPEN_SECONDS)
    except TimeoutError:
        reason = f"The driver did not respond within {OPEN_SECONDS:g} s."
    except Exception as error:  # noqa: BLE001 - the program works without GPU readings
        reason = str(error)
    log.info("GPUs of this vendor cannot be read", vendor=vendor, reason=reason)
    return None
