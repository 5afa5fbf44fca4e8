"""The closed set of causes, in order of precedence, and the GPU states that show some of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ruleset.intervals import MODEL_KEY


class Cause(StrEnum):
    """The values of the `cause` label. The first that holds is the cause of a drop."""

    CPU = "cpu"
    PARTIAL_OFFLOAD = "partial_offload"
    THERMAL = "thermal"
    HW_POWER_BRAKE = "hw_power_brake"
    HW_SLOWDOWN = "hw_slowdown"
    CONTENDED = "contended"
    POWER_CAP = "power_cap"
    WORKLOAD_CHANGED = "workload_changed"
    VERSION_CHANGED = "version_changed"
    DIGEST_CHANGED = "digest_changed"
    DRIVER_CHANGED = "driver_changed"
    CLOCK_LOW = "clock_low"
    NONE_VISIBLE = "none_visible"


RANK: dict[Cause, int] = {cause: rank for rank, cause in enumerate(Cause, start=1)}
"""The value of `ollama_probe:suspect:rank`: 1 takes precedence over all others."""


@dataclass(frozen=True, slots=True)
class StateCause:
    """A cause that shows in a share (0 to 1) measured with each reading."""

    expr: str
    """The share per model; higher is worse."""
    rise: float
    """By how much it must exceed its usual value (`ollama_probe:state:norm`) to be a cause."""
    evidence: float | None
    """The rise that lets a drop page after three runs. None where other programs can bring the state about."""


def _throttled(reasons: str) -> str:
    return f'max by ({MODEL_KEY}) (ollama_probe_gpu_throttled_ratio{{reason=~"{reasons}"}})'


_UNLESS_INTENDED = f"unless on ({MODEL_KEY}) (max by ({MODEL_KEY}) (ollama_probe_cpu_intended) == 1)"
"""Leaves out the models that are configured to run on the CPU: there it explains nothing."""

STATE_CAUSES: dict[Cause, StateCause] = {
    # The gpu label where the exporter observed the GPU; a remote server can only report a ratio. The last line gives 0
    # to all other models that have a reading.
    Cause.CPU: StateCause(
        f'(\nmax by ({MODEL_KEY}) (ollama_probe_decode_tokens_per_second{{gpu="cpu"}} * 0 + 1)\n'
        f"or max by ({MODEL_KEY}) (ollama_probe_model_gpu_ratio == bool 0)\n"
        f"or max by ({MODEL_KEY}) (ollama_probe_decode_tokens_per_second * 0)\n)\n"
        f"{_UNLESS_INTENDED}",
        rise=0.5,
        evidence=0.5,
    ),
    # A quarter of the layers off the GPU costs 88 % of the rate, so 2 % is enough to be the cause.
    Cause.PARTIAL_OFFLOAD: StateCause(
        f"1 - min by ({MODEL_KEY}) (ollama_probe_model_gpu_ratio)\n{_UNLESS_INTENDED}", rise=0.02, evidence=0.02
    ),
    Cause.THERMAL: StateCause(_throttled("hw_thermal|sw_thermal"), rise=0.3, evidence=0.3),
    Cause.HW_POWER_BRAKE: StateCause(_throttled("hw_power_brake"), rise=0.3, evidence=0.3),
    Cause.HW_SLOWDOWN: StateCause(_throttled("hw_slowdown"), rise=0.3, evidence=0.3),
    # Another program on the GPU drives this to 1 and lowers the clock: a cause, never evidence.
    Cause.POWER_CAP: StateCause(_throttled("sw_power_cap"), rise=0.5, evidence=None),
    # How far below its maximum clock the GPU ran. Some GPUs never reach it, which subtracting the norm accounts for.
    Cause.CLOCK_LOW: StateCause(
        f"1 - min by ({MODEL_KEY}) (ollama_probe_gpu_clock_hertz)\n"
        f"/ min by ({MODEL_KEY}) (ollama_probe_gpu_clock_max_hertz)",
        rise=0.05,
        evidence=0.2,
    ),
}
