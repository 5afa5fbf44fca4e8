"""The closed set of causes, in the order in which they are believed, each with its sentence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_OF_PAIR = "job=%q,target=%q,model=%q"
_PAIR_ARGUMENTS = "$labels.job $labels.target $labels.model"


class Cause(StrEnum):
    """What a drop is put down to: the values of the `cause` label. The first that holds is named."""

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


@dataclass(frozen=True, slots=True)
class StateCause:
    """A cause that shows in a share (0 to 1) taken with each reading."""

    expr: str
    """The share by pair, higher is worse."""
    rise: float
    """By how much it must exceed the pair's own norm."""
    evidence: float | None
    """The rise that lets a drop page after three runs, for what no neighbour brings about."""


def _throttled(reasons: str) -> str:
    return f'max by (job, target, model) (ollama_probe_gpu_throttled_ratio{{reason=~"{reasons}"}})'


STATES: dict[Cause, StateCause] = {
    # The label where the GPU room saw it; a server elsewhere can only claim it. The rate itself says for whom it is 0.
    Cause.CPU: StateCause(
        'max by (job, target, model) (ollama_probe_decode_tokens_per_second{gpu="cpu"} * 0 + 1)\n'
        "or max by (job, target, model) (ollama_probe_model_gpu_ratio == bool 0)\n"
        "or max by (job, target, model) (ollama_probe_decode_tokens_per_second * 0)",
        rise=0.5,
        evidence=0.5,
    ),
    # A quarter of the layers off the GPU costs 88 % of the rate, so 2 % is enough to name it.
    Cause.PARTIAL_OFFLOAD: StateCause(
        "1 - min by (job, target, model) (ollama_probe_model_gpu_ratio)", rise=0.02, evidence=0.02
    ),
    Cause.THERMAL: StateCause(_throttled("hw_thermal|sw_thermal"), rise=0.3, evidence=0.3),
    Cause.HW_POWER_BRAKE: StateCause(_throttled("hw_power_brake"), rise=0.3, evidence=0.3),
    Cause.HW_SLOWDOWN: StateCause(_throttled("hw_slowdown"), rise=0.3, evidence=0.3),
    # A foreign program drives this to 1 and the clock down with it: a cause to name, never evidence.
    Cause.POWER_CAP: StateCause(_throttled("sw_power_cap"), rise=0.5, evidence=None),
    # How far under its highest clock the card ran, which some never reach: the pair's own norm is subtracted.
    Cause.CLOCK_LOW: StateCause(
        "1 - min by (job, target, model) (ollama_probe_gpu_clock_hertz)\n"
        "/ min by (job, target, model) (ollama_probe_gpu_clock_max_hertz)",
        rise=0.05,
        evidence=0.2,
    ),
}

RANK: dict[Cause, int] = {cause: rank for rank, cause in enumerate(Cause, start=1)}


def sample(expr: str, form: str = "humanize") -> str:
    """A template for the value of `expr`, whose selectors take the pair at `PAIR`; `?` where there is none now."""
    query = expr.replace("PAIR", _OF_PAIR).replace('"', '\\"')
    arguments = " ".join([_PAIR_ARGUMENTS] * expr.count("PAIR"))
    value = f"{{{{ . | first | value | {form} }}}}"
    return f'{{{{ with printf "{query}" {arguments} | query }}}}{value}{{{{ else }}}}?{{{{ end }}}}'


_CLOCK = sample("min(ollama_probe_gpu_clock_hertz{PAIR})")
_CLOCK_MAX = sample("min(ollama_probe_gpu_clock_max_hertz{PAIR})")
_TEMPERATURE = sample("max(ollama_probe_gpu_temperature_celsius{PAIR})")
_ON_GPU = sample("min(ollama_probe_model_gpu_ratio{PAIR})", "humanizePercentage")


def _share(reasons: str) -> str:
    return sample(f'max(ollama_probe_gpu_throttled_ratio{{PAIR,reason=~"{reasons}"}})', "humanizePercentage")


_BANDWIDTH = sample("max(ollama_probe_bandwidth_utilization_ratio{PAIR})", "humanizePercentage")
_AT = f"at {_CLOCK}Hz of {_CLOCK_MAX}Hz and {_TEMPERATURE} degrees Celsius"

SENTENCES: dict[Cause, str] = {
    Cause.CPU: f"The model runs on the CPU: {_ON_GPU} of it is on a GPU; bandwidth utilization {_BANDWIDTH}.",
    Cause.PARTIAL_OFFLOAD: f"Part of the model runs on the CPU: {_ON_GPU} of it is on the GPU.",
    Cause.THERMAL: f"Heat throttles the GPU {_share('hw_thermal|sw_thermal')} of the time, {_AT}.",
    Cause.HW_POWER_BRAKE: f"The power supply brakes the GPU {_share('hw_power_brake')} of the time, {_AT}.",
    Cause.HW_SLOWDOWN: f"The hardware slows the GPU down {_share('hw_slowdown')} of the time, {_AT}.",
    Cause.CONTENDED: "Other work on the same GPU: many readings nearby are marked as contended.",
    Cause.POWER_CAP: f"The GPU is held at its power limit {_share('sw_power_cap')} of the time: the limit was lowered, "
    "or another program is on the card.",
    Cause.WORKLOAD_CHANGED: "The probe's own prompt or options changed, and the rate with them.",
    Cause.VERSION_CHANGED: "Ollama's version changed, and the rate with it.",
    Cause.DIGEST_CHANGED: "The model's digest or quantization changed, and the rate with it.",
    Cause.DRIVER_CHANGED: "The GPU driver or the card changed, and the rate with it.",
    Cause.CLOCK_LOW: f"The GPU's clock is low without a throttle reason, {_AT}.",
    Cause.NONE_VISIBLE: "No cause is visible in the probe's metrics: look for other work on the machine.",
}


def sentence() -> str:
    """A template for the sentence of the alert's own `cause` label."""
    first, *others = SENTENCES.items()
    branches = "".join(f'{{{{ else if eq $labels.cause "{cause}" }}}}{text}' for cause, text in others)
    return f'{{{{ if eq $labels.cause "{first[0]}" }}}}{first[1]}{branches}{{{{ end }}}}'
