"""Frozen measurement values: what crosses from probing to state, metrics and terminal.

Numbers are checked here, where they are made, so that state and metrics never have to: a value with a number that is
negative, not finite or absurdly large cannot be constructed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

ContendedBy = Literal["queue", "model", "gpu"]

CPU = "cpu"
"""The `gpu` label where no part of the model ran on a GPU."""
UNKNOWN = "unknown"
"""The `gpu` label where the GPU cannot be determined."""


NUMBER_MAX = 1e18
"""Far above anything that a probe measures, and so far below the largest float that no sum of readings overflows."""


def check_numbers(value: Any, *derived: str) -> None:
    """Raise ValueError unless every number of a dataclass is from 0 to `NUMBER_MAX`.

    Checks its own fields, mappings included, and the properties named in `derived`.
    """
    for name in (*(each.name for each in fields(value)), *derived):
        content = getattr(value, name)
        numbers = content.values() if isinstance(content, Mapping) else (content,)
        for number in numbers:
            if isinstance(number, int | float) and not 0 <= number <= NUMBER_MAX:
                shown = number if isinstance(number, float) or number.bit_length() < 64 else "a huge integer"  # noqa: PLR2004 - short enough to print
                raise ValueError(f"{type(value).__name__}.{name} is {shown}, not a number from 0 to {NUMBER_MAX:g}")


class ThrottleReason(StrEnum):
    """Why the clock of a GPU was reduced: those of NVML's clock event reasons that lower the clock."""

    SW_POWER_CAP = "sw_power_cap"
    SW_THERMAL = "sw_thermal"
    HW_THERMAL = "hw_thermal"
    HW_POWER_BRAKE = "hw_power_brake"
    HW_SLOWDOWN = "hw_slowdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one request returned. Times are `time.perf_counter` seconds."""

    started_at: float
    """When the chain was called."""
    sent_at: float
    """When the request's first byte was sent."""
    ended_at: float
    """When the chain returned; the deadline, for a stream that was cut."""
    chunk_times: tuple[float, ...]
    """When each chunk of text or thinking arrived."""
    chunk_texts: tuple[str, ...]
    """Empty for a chunk of thinking, whose text arrives with the final chunk only."""
    final: Mapping[str, Any] | None
    """The final chunk's fields (durations in nanoseconds); None if the stream ended without one, or was cut."""
    thinking: str
    cut: bool
    """Whether the deadline ended it."""

    @property
    def text(self) -> str:
        """The answer, as far as it arrived."""
        return "".join(self.chunk_texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The server's time in the measured request by stage, in seconds, as reported in its final chunk."""

    queue_seconds: float
    load_seconds: float
    prefill_seconds: float
    decode_seconds: float

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_numbers(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one answer measured. None means unknown."""

    words: int | None
    """Whitespace-separated tokens of the answer, thinking included; None if a cut stream lost its thinking."""
    elapsed_seconds: float
    """Wall clock around the chain, the model already loaded; up to the last chunk if truncated."""
    decode_tokens_per_second: float
    """Ollama's eval_count / eval_duration; from the client's clock if truncated."""
    output_tokens: int | None
    """Ollama's eval_count."""
    prompt_tokens: int | None
    """Ollama's prompt_eval_count."""
    time_to_first_token_seconds: float
    stages: Stages | None
    truncated: bool
    """Whether the stream ended without its final chunk."""
    distinct_chunks_ratio: float
    """Distinct chunk texts / chunks with text."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_numbers(self, "tokens_per_second")

    @property
    def tokens_per_second(self) -> float | None:
        """The reference program's figure: words / elapsed, 0 when elapsed is 0."""
        if self.words is None:
            return None
        return self.words / self.elapsed_seconds if self.elapsed_seconds > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """State of the GPU or GPUs between the first token and the last. None means that the GPU does not report it.

    For several GPUs: energy and power are summed, utilisation is the mean, clocks are the lowest, temperature and each
    throttled ratio are the highest.
    """

    energy_joules: float | None = None
    power_watts: float | None = None
    clock_hertz: float | None = None
    clock_max_hertz: float | None = None
    temperature_celsius: float | None = None
    utilization_ratio: float | None = None
    throttled_ratio: Mapping[ThrottleReason, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_numbers(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuObservation:
    """What the GPU monitor saw during one probe."""

    label: str
    """The `gpu` label."""
    uuids: tuple[str, ...] = ()
    """The GPUs that ran the model."""
    state: GpuState | None = None
    contended: Mapping[ContendedBy, bool] = field(default_factory=dict)
    """`model` and `gpu`, each only where it was looked for."""
    peak_bandwidth_bytes_per_second: float | None = None
    """Of the GPUs that ran the model, if they are all of one kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledModel:
    """An entry of `/api/tags`. Empty or None means that the server did not report it."""

    name: str = ""
    digest: str = ""
    size_bytes: int | None = None
    family: str = ""
    parameter_size: str = ""
    quantization: str = ""
    can_generate: bool | None = None
    cloud: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """An entry of `/api/ps`."""

    name: str
    size_bytes: int | None = None
    size_vram_bytes: int | None = None
    """The part on a GPU as the server reports it, which can be wrong."""
    context_length: int | None = None
    expires_at: datetime | None = None

    @property
    def gpu_ratio(self) -> float | None:
        """`size_vram / size`, at most 1; None where either is unknown."""
        if not self.size_bytes or self.size_vram_bytes is None:
            return None
        return min(self.size_vram_bytes / self.size_bytes, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The result of one successful probe. None means unknown."""

    finished_at: float
    """Unix seconds."""
    figures: Figures
    gpu: GpuObservation
    installed: InstalledModel = InstalledModel()
    """The model's entry of `/api/tags`."""
    loaded: LoadedModel | None = None
    """The model's entry of `/api/ps`, just before the measured request."""
    model_load_seconds: float | None = None
    """How long the probe's own load request took; None if the model was loaded already."""
    contended: Mapping[ContendedBy, bool] = field(default_factory=dict)
    """Whether other work shared the GPU, the runner or the queue; each only where it could be determined."""
    bandwidth_utilization_ratio: float | None = None
    text: str = field(default="", repr=False)
    """The answer, shown on the terminal only. Never a label or part of a log line."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_numbers(self, "model_gpu_ratio", "tokens_per_joule")

    @property
    def model_gpu_ratio(self) -> float | None:
        """Share of the model on a GPU, as the server reports it."""
        return self.loaded.gpu_ratio if self.loaded else None

    @property
    def tokens_per_joule(self) -> float | None:
        """Output tokens per joule of the GPUs' energy from the first token to the last."""
        energy = self.gpu.state.energy_joules if self.gpu.state else None
        return self.figures.output_tokens / energy if self.figures.output_tokens and energy else None

    @property
    def model_info(self) -> Mapping[str, str]:
        """The labels that describe the model; empty if the server did not report it."""
        context_length = self.loaded.context_length if self.loaded else None
        return {
            "digest": self.installed.digest,
            "model_name": self.installed.name,
            "family": self.installed.family,
            "parameter_size": self.installed.parameter_size,
            "quantization": self.installed.quantization,
            "context_length": str(context_length or ""),
        }
