"""The frozen values that cross from measuring to telling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

ContendedBy = Literal["queue", "model", "gpu"]

CPU = "cpu"
"""The `gpu` label where nothing of the model ran on a GPU."""
UNKNOWN = "unknown"
"""The `gpu` label where nobody can tell."""


class SkipReason(StrEnum):
    """Why a due run measured nothing."""

    UNLOADED = "unloaded"
    OCCUPIED = "occupied"
    OVERLAP = "overlap"
    LATE = "late"


class ThrottleReason(StrEnum):
    """Why a card ran below the clock it could have had: NVML's clocks-event reasons, those that cost speed."""

    SW_POWER_CAP = "sw_power_cap"
    SW_THERMAL = "sw_thermal"
    HW_THERMAL = "hw_thermal"
    HW_POWER_BRAKE = "hw_power_brake"
    HW_SLOWDOWN = "hw_slowdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of one request. Times are `time.perf_counter` seconds."""

    started_at: float
    """When the chain was called."""
    sent_at: float
    """When the request left."""
    ended_at: float
    """When the chain returned; of a cut stream the deadline."""
    chunk_times: tuple[float, ...]
    """When each chunk of text or thinking arrived."""
    chunk_texts: tuple[str, ...]
    """Empty for a chunk of thinking, whose text only the final chunk brings."""
    final: Mapping[str, Any] | None
    """The final chunk's fields (durations in ns); None where the stream ended without one, or was cut."""
    thinking: str
    cut: bool
    """Whether the deadline ended it."""

    @property
    def text(self) -> str:
        """The answer, as far as it came."""
        return "".join(self.chunk_texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Where the server's time went in the measured request, in seconds, by its own final chunk."""

    queue_seconds: float
    load_seconds: float
    prefill_seconds: float
    decode_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """How the card or cards fared from the first token to the last. None is what the card does not tell.

    Over several cards: energy and power are summed, utilisation is the mean, clock is the lowest, temperature and each
    throttled share are the highest.
    """

    energy_joules: float | None = None
    power_watts: float | None = None
    clock_hertz: float | None = None
    clock_max_hertz: float | None = None
    temperature_celsius: float | None = None
    utilization_ratio: float | None = None
    throttled_ratio: Mapping[ThrottleReason, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuObservation:
    """What the GPU room saw of one probe."""

    label: str
    """The `gpu` label."""
    uuids: tuple[str, ...] = ()
    """The cards that ran the model, as NVML names them."""
    state: GpuState | None = None
    contended: Mapping[ContendedBy, bool] = field(default_factory=dict)
    """`model` and `gpu`, each only where it was looked for."""
    peak_bandwidth_bytes_per_second: float | None = None
    """Of the cards that ran the model, where they are of one kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What the server says of a model; empty strings where it does not."""

    digest: str = ""
    model_name: str = ""
    family: str = ""
    parameter_size: str = ""
    quantization: str = ""
    context_length: int = 0
    """As loaded (`/api/ps`); 0 is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one good probe measured. None is what could not be known."""

    finished_at: float
    """Unix seconds."""
    gpu: str
    uuids: tuple[str, ...] = ()
    words: int | None
    """Whitespace-separated words of the answer, thinking included; None where a cut stream lost its thinking."""
    elapsed_seconds: float
    """Wall clock around the chain, the model already loaded; to the last chunk where truncated."""
    decode_tokens_per_second: float
    output_tokens: int | None
    prompt_tokens: int | None
    time_to_first_token_seconds: float
    stages: Stages | None
    model_load_seconds: float | None
    """How long the probe's own loading took; None where the model was loaded already."""
    truncated: bool
    contended: Mapping[ContendedBy, bool]
    distinct_chunks_ratio: float
    model_gpu_ratio: float | None
    gpu_state: GpuState | None
    bandwidth_utilization_ratio: float | None
    model: ModelInfo
    text: str = field(default="", repr=False)
    """The answer. For the terminal alone: never a label, never logged."""

    @property
    def tokens_per_second(self) -> float | None:
        """The reference program's figure: words / elapsed, 0 when elapsed is 0."""
        if self.words is None:
            return None
        return self.words / self.elapsed_seconds if self.elapsed_seconds > 0 else 0.0

    @property
    def tokens_per_joule(self) -> float | None:
        """Output tokens per joule of the card's energy from the first token to the last."""
        energy = self.gpu_state.energy_joules if self.gpu_state else None
        return self.output_tokens / energy if self.output_tokens and energy else None
