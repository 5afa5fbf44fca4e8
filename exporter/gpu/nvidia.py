"""NVIDIA's driver as plain values: each call of NVML once, None for whatever the card does not tell.

Costs of one call, medians on an H200: utilisation 37 us, clock 8, temperature 6, reasons 8, power 48, memory 30,
process list 163 us, process utilisation 2 ms, total energy 3 ms. So the first five are sampled, the rest asked rarely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from exporter.gpu.base import Card
from exporter.gpu.evidence import Counters, Sample
from exporter.reading import ThrottleReason

ENERGY_FIELD = 83
"""`NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION`, millijoules."""
INSTANT_POWER_FIELD = 186
"""`NVML_FI_DEV_POWER_INSTANT`, milliwatts; `nvmlDeviceGetPowerUsage` is a mean of about one second on new cards."""
THROTTLE_FIELDS: Mapping[ThrottleReason, int] = {
    ThrottleReason.SW_POWER_CAP: 74,
    ThrottleReason.SW_THERMAL: 269,
    ThrottleReason.HW_THERMAL: 270,
    ThrottleReason.HW_POWER_BRAKE: 271,
}
"""Cumulative nanoseconds. `hw_slowdown` has no counter: its bit is sampled."""
REASON_BITS: Mapping[ThrottleReason, int] = {
    ThrottleReason.SW_POWER_CAP: 0x4,
    ThrottleReason.HW_SLOWDOWN: 0x8,
    ThrottleReason.SW_THERMAL: 0x20,
    ThrottleReason.HW_THERMAL: 0x40,
    ThrottleReason.HW_POWER_BRAKE: 0x80,
}
"""Of `nvmlDeviceGetCurrentClocksEventReasons`."""
VALUE_TYPES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""The member of a field's value, by its `valueType`."""


class NoDriverError(Exception):
    """NVML is not there, or does not let us in. The message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """What does not change on a card."""

    card: Card
    mig: bool
    clock_max_hertz: float | None
    peak_bandwidth_bytes_per_second: float | None
    """Bus width x maximum memory clock x 2 (double data rate) / 8."""


class Nvml:
    """The driver, opened. Every method may block and belongs on the room's thread; cards are counted from 0."""

    def __init__(self, driver: Any) -> None:
        """Open `driver`, which has NVML's function names (in production the module `pynvml`)."""
        self._driver = driver
        try:
            driver.nvmlInit()
        except driver.NVMLError as error:
            raise NoDriverError(f"NVML: {error}") from error
        try:
            self._handles = self._reachable()
            version = self._ask(driver.nvmlSystemGetDriverVersion) or ""
            self.fixed = tuple(self._identify(handle, number, version) for number, handle in enumerate(self._handles))
        except Exception:
            self.close()
            raise
        if not self.fixed:
            self.close()
            raise NoDriverError("NVML: the driver is there, but shows no card to this user")

    def close(self) -> None:
        """Let the driver go."""
        self._ask(self._driver.nvmlShutdown)

    def sample(self, card: int, at: float) -> Sample:
        """Return how the card is doing at this moment, which is `at` on the caller's clock."""
        driver, handle = self._driver, self._handles[card]
        rates = self._ask(driver.nvmlDeviceGetUtilizationRates, handle)
        megahertz = self._ask(driver.nvmlDeviceGetClockInfo, handle, driver.NVML_CLOCK_SM)
        return Sample(
            at=at,
            utilization_ratio=None if rates is None else rates.gpu / 100,
            clock_hertz=None if megahertz is None else megahertz * 1e6,
            temperature_celsius=self._ask(driver.nvmlDeviceGetTemperature, handle, driver.NVML_TEMPERATURE_GPU),
            power_watts=self._power(handle),
            throttled=self._throttled(handle),
        )

    def counters(self, card: int, clock: Callable[[], float]) -> Counters:
        """Return the card's cumulative counters and when they were read."""
        handle = self._handles[card]
        fields = self._fields(handle, (ENERGY_FIELD, *THROTTLE_FIELDS.values()))
        millijoules = fields.get(ENERGY_FIELD)
        if millijoules is None:
            millijoules = self._ask(self._driver.nvmlDeviceGetTotalEnergyConsumption, handle)
        throttled = {reason: fields[number] / 1e9 for reason, number in THROTTLE_FIELDS.items() if number in fields}
        joules = None if millijoules is None else millijoules / 1000
        return Counters(at=clock(), energy_joules=joules, throttled_seconds=throttled)

    def processes(self, card: int) -> Mapping[int, int | None] | None:
        """Return the memory in bytes of each process on the card, by pid, as the driver counts pids."""
        driver, handle = self._driver, self._handles[card]
        computing = self._ask(driver.nvmlDeviceGetComputeRunningProcesses, handle)
        if computing is None:
            return None
        drawing = self._ask(driver.nvmlDeviceGetGraphicsRunningProcesses, handle) or ()  # Vulkan's are here
        return {process.pid: process.usedGpuMemory for process in (*drawing, *computing)}

    def shares(self, card: int, since: float) -> Mapping[int, float] | None:
        """Return each process's mean share of the SMs' time since `since` (Unix seconds); empty when nothing is new."""
        driver = self._driver
        try:
            samples = driver.nvmlDeviceGetProcessUtilization(self._handles[card], int(since * 1e6))
        except driver.NVMLError as error:
            return {} if error.value == driver.NVML_ERROR_NOT_FOUND else None
        return {sample.pid: sample.smUtil / 100 for sample in samples}

    def memory_used(self, card: int) -> int | None:
        """Return the bytes in use on the card, whoever uses them."""
        memory = self._ask(self._driver.nvmlDeviceGetMemoryInfo, self._handles[card])
        return None if memory is None else int(memory.used)

    def _reachable(self) -> list[Any]:
        count = self._ask(self._driver.nvmlDeviceGetCount) or 0
        handles = (self._ask(self._driver.nvmlDeviceGetHandleByIndex, index) for index in range(count))
        return [handle for handle in handles if handle is not None]

    def _identify(self, handle: Any, number: int, version: str) -> Fixed:
        driver = self._driver
        pci = self._ask(driver.nvmlDeviceGetPciInfo, handle)
        index = self._ask(driver.nvmlDeviceGetIndex, handle)
        width = self._ask(driver.nvmlDeviceGetMemoryBusWidth, handle)
        memory_megahertz = self._ask(driver.nvmlDeviceGetMaxClockInfo, handle, driver.NVML_CLOCK_MEM)
        megahertz = self._ask(driver.nvmlDeviceGetMaxClockInfo, handle, driver.NVML_CLOCK_SM)
        mig = self._ask(driver.nvmlDeviceGetMigMode, handle)
        return Fixed(
            card=Card(
                uuid=self._ask(driver.nvmlDeviceGetUUID, handle) or "",
                name=self._ask(driver.nvmlDeviceGetName, handle) or "NVIDIA GPU",
                index=number if index is None else index,
                pci_bus_id="" if pci is None else pci.busId,
                vendor="NVIDIA",
                driver_version=version,
            ),
            mig=bool(mig and mig[0]),
            clock_max_hertz=None if megahertz is None else megahertz * 1e6,
            peak_bandwidth_bytes_per_second=width * memory_megahertz * 1e6 * 2 / 8
            if width and memory_megahertz
            else None,
        )

    def _power(self, handle: Any) -> float | None:
        milliwatts = self._fields(handle, (INSTANT_POWER_FIELD,)).get(INSTANT_POWER_FIELD)
        if not milliwatts:
            milliwatts = self._ask(self._driver.nvmlDeviceGetPowerUsage, handle)
        return None if milliwatts is None else milliwatts / 1000

    def _throttled(self, handle: Any) -> frozenset[ThrottleReason] | None:
        bits = self._ask(self._driver.nvmlDeviceGetCurrentClocksEventReasons, handle)
        return None if bits is None else frozenset(reason for reason, bit in REASON_BITS.items() if bits & bit)

    def _fields(self, handle: Any, numbers: tuple[int, ...]) -> dict[int, float]:
        values = self._ask(self._driver.nvmlDeviceGetFieldValues, handle, list(numbers)) or ()
        return {
            field.fieldId: getattr(field.value, VALUE_TYPES[field.valueType])
            for field in values
            if field.nvmlReturn == self._driver.NVML_SUCCESS and field.valueType < len(VALUE_TYPES)
        }

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the answer, or None: not supported, not permitted, or the card is gone."""
        try:
            return function(*arguments)
        except self._driver.NVMLError:
            return None
