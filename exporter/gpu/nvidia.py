"""Reads NVIDIA GPUs through NVML, NVIDIA's management library.

Median duration of one call on an H200: utilisation 37 us, clock 8, temperature 6, clock event reasons 8, power 48,
memory 30, process list 163 us, process utilisation 2 ms, total energy 3 ms. So the first five are sampled, and the
others are called rarely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from exporter.gpu.base import Card, Counters, ReaderUnavailableError, Sample, convert
from exporter.reading import ThrottleReason

ENERGY_FIELD = 83
"""`NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION`, millijoules."""
INSTANT_POWER_FIELD = 186
"""`NVML_FI_DEV_POWER_INSTANT`, milliwatts; `nvmlDeviceGetPowerUsage` is a mean of about one second on new GPUs."""
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


def open_reader() -> NvidiaReader:
    """Initialise NVML. Raises ReaderUnavailableError."""
    try:
        import pynvml
    except ImportError as error:
        raise ReaderUnavailableError(f"NVML: {error}") from error
    return NvidiaReader(pynvml)


class NvidiaReader:
    """All NVIDIA GPUs that this user may read."""

    def __init__(self, library: Any) -> None:
        """Initialise `library`, an object with NVML's function names: the module `pynvml`, except in tests."""
        self._library = library
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            raise ReaderUnavailableError(f"NVML: {error}") from error
        try:
            self.cards = tuple(self._cards())
        except Exception:
            self.close()
            raise
        if not self.cards:
            self.close()
            raise ReaderUnavailableError("NVML: the driver is loaded, but this user cannot open any of its GPUs")

    def close(self) -> None:
        """Shut NVML down."""
        _ask(self._library, self._library.nvmlShutdown)

    def _cards(self) -> Sequence[NvidiaCardReader]:
        library = self._library
        count = _ask(library, library.nvmlDeviceGetCount) or 0
        handles = (_ask(library, library.nvmlDeviceGetHandleByIndex, index) for index in range(count))
        opened = [handle for handle in handles if handle is not None]
        return [NvidiaCardReader(library, handle, position) for position, handle in enumerate(opened)]


class NvidiaCardReader:
    """One NVIDIA GPU."""

    def __init__(self, library: Any, handle: Any, position: int) -> None:
        """Read the constant properties. `position` is the index if NVML does not report one."""
        self._library = library
        self._handle = handle
        self.card = self._card(position)

    def sample(self, at: float) -> Sample:
        """Return the current state; `at` is the caller's clock."""
        library = self._library
        rates = self._ask(library.nvmlDeviceGetUtilizationRates)
        return Sample(
            at=at,
            utilization_ratio=None if rates is None else convert(rates.gpu, per=100),
            clock_hertz=convert(self._ask(library.nvmlDeviceGetClockInfo, library.NVML_CLOCK_SM), times=1e6),
            temperature_celsius=convert(self._ask(library.nvmlDeviceGetTemperature, library.NVML_TEMPERATURE_GPU)),
            power_watts=self._power(),
            throttled=self._throttled(),
        )

    def counters(self, clock: Callable[[], float]) -> Counters:
        """Return the cumulative counters, and when they were read."""
        fields = self._fields((ENERGY_FIELD, *THROTTLE_FIELDS.values()))
        millijoules = fields.get(ENERGY_FIELD)
        if millijoules is None:
            millijoules = self._ask(self._library.nvmlDeviceGetTotalEnergyConsumption)
        throttled = {reason: convert(fields.get(number), per=1e9) for reason, number in THROTTLE_FIELDS.items()}
        return Counters(
            at=clock(),
            energy_joules=convert(millijoules, per=1e3),
            throttled_seconds={reason: seconds for reason, seconds in throttled.items() if seconds is not None},
        )

    def processes(self) -> Mapping[int, int | None] | None:
        """Return the memory of each process on the GPU in bytes, by pid as the driver reports it."""
        compute = self._ask(self._library.nvmlDeviceGetComputeRunningProcesses)
        if compute is None:
            return None
        graphics = self._ask(self._library.nvmlDeviceGetGraphicsRunningProcesses) or ()  # includes Vulkan compute
        return {process.pid: _bytes(process.usedGpuMemory) for process in (*graphics, *compute)}

    def shares(self, since: float) -> Mapping[int, float] | None:
        """Return each process's mean share of the SMs' time since `since` (Unix seconds); empty if nothing is new."""
        library = self._library
        try:
            samples = library.nvmlDeviceGetProcessUtilization(self._handle, int(since * 1e6))
        except library.NVMLError as error:
            return {} if error.value == library.NVML_ERROR_NOT_FOUND else None
        shares = {sample.pid: convert(sample.smUtil, per=100) for sample in samples}
        return {pid: share for pid, share in shares.items() if share is not None}

    def memory_used(self) -> int | None:
        """Return the memory in use on the GPU in bytes."""
        memory = self._ask(self._library.nvmlDeviceGetMemoryInfo)
        return None if memory is None else _bytes(memory.used)

    def _card(self, position: int) -> Card:
        library = self._library
        pci = self._ask(library.nvmlDeviceGetPciInfo)
        index = self._ask(library.nvmlDeviceGetIndex)
        partitioned = self._ask(library.nvmlDeviceGetMigMode)
        return Card(
            uuid=self._ask(library.nvmlDeviceGetUUID) or "",
            name=self._ask(library.nvmlDeviceGetName) or "NVIDIA GPU",
            index=position if index is None else index,
            pci_bus_id="" if pci is None else pci.busId,
            vendor="NVIDIA",
            driver_version=_ask(library, library.nvmlSystemGetDriverVersion) or "",
            partitioned=bool(partitioned and partitioned[0]),
            clock_max_hertz=convert(self._ask(library.nvmlDeviceGetMaxClockInfo, library.NVML_CLOCK_SM), times=1e6),
            peak_bandwidth_bytes_per_second=self._peak_bandwidth(),
        )

    def _peak_bandwidth(self) -> float | None:
        """Return bus width in bits x maximum memory clock x 2 (double data rate) / 8, in bytes per second."""
        width = convert(self._ask(self._library.nvmlDeviceGetMemoryBusWidth))
        hertz = convert(self._ask(self._library.nvmlDeviceGetMaxClockInfo, self._library.NVML_CLOCK_MEM), times=1e6)
        return width * hertz * 2 / 8 if width and hertz else None

    def _power(self) -> float | None:
        milliwatts = self._fields((INSTANT_POWER_FIELD,)).get(INSTANT_POWER_FIELD)
        if not milliwatts:
            milliwatts = self._ask(self._library.nvmlDeviceGetPowerUsage)
        return convert(milliwatts, per=1e3)

    def _throttled(self) -> frozenset[ThrottleReason] | None:
        bits = self._ask(self._library.nvmlDeviceGetCurrentClocksEventReasons)
        return None if bits is None else frozenset(reason for reason, bit in REASON_BITS.items() if bits & bit)

    def _fields(self, numbers: tuple[int, ...]) -> dict[int, float]:
        """Return the field values that the GPU reports, by field number; none is negative or not finite."""
        values = self._ask(self._library.nvmlDeviceGetFieldValues, list(numbers)) or ()
        fields = {
            field.fieldId: convert(getattr(field.value, VALUE_TYPES[field.valueType]))
            for field in values
            if field.nvmlReturn == self._library.NVML_SUCCESS and field.valueType < len(VALUE_TYPES)
        }
        return {number: value for number, value in fields.items() if value is not None}

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return _ask(self._library, function, self._handle, *arguments)


def _ask(library: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the answer of an NVML function, None if it fails: not supported, not permitted, or the GPU is lost."""
    try:
        return function(*arguments)
    except library.NVMLError:
        return None


def _bytes(value: float | None) -> int | None:
    known = convert(value)
    return None if known is None else int(known)
