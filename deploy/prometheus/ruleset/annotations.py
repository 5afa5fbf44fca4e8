"""Texts of the alerts: Go templates, which Prometheus expands when an alert is evaluated.

Source: https://prometheus.io/docs/prometheus/latest/configuration/template_reference/
"""

from __future__ import annotations

from collections.abc import Iterable

from ruleset.causes import Cause
from ruleset.recording import RATE

_MODEL_MATCHERS = "job=%q,target=%q,model=%q"
_MODEL_ARGUMENTS = "$labels.job $labels.target $labels.model"


def current_value(expr: str, form: str = "humanize") -> str:
    """Return a template for the current value of `expr`, or `?` where it has none.

    Each selector in `expr` contains MODEL, which becomes the matchers of the alert's model; `form` is the template
    function that formats the value.
    """
    query = expr.replace("MODEL", _MODEL_MATCHERS).replace('"', '\\"')
    arguments = " ".join([_MODEL_ARGUMENTS] * expr.count("MODEL"))
    value = f"{{{{ . | first | value | {form} }}}}"
    return f'{{{{ with printf "{query}" {arguments} | query }}}}{value}{{{{ else }}}}?{{{{ end }}}}'


def _throttled(reasons: str) -> str:
    return current_value(f'max(ollama_probe_gpu_throttled_ratio{{MODEL,reason=~"{reasons}"}})', "humanizePercentage")


MODEL = "{{ $labels.model }} on {{ $labels.target }}"
GPU = (
    '{{ with printf "ollama_probe_decode_tokens_per_second{job=%q,target=%q,model=%q}" $labels.job $labels.target '
    '$labels.model | query }} It last ran on: {{ . | first | label "gpu" }}.{{ end }}'
)
RATE_NOW = current_value(f"{RATE}:usable{{MODEL}}", 'printf "%.1f"')
REFERENCE_NOW = current_value(f"{RATE}:reference{{MODEL}}", 'printf "%.1f"')
CLOCK = current_value("min(ollama_probe_gpu_clock_hertz{MODEL})")
TEMPERATURE = current_value("max(ollama_probe_gpu_temperature_celsius{MODEL})")
TIMEOUT = current_value("max(ollama_probe_timeout_seconds{MODEL})")
_CLOCK_MAX = current_value("min(ollama_probe_gpu_clock_max_hertz{MODEL})")
_ON_GPU = current_value("min(ollama_probe_model_gpu_ratio{MODEL})", "humanizePercentage")
_BANDWIDTH = current_value("max(ollama_probe_bandwidth_utilization_ratio{MODEL})", "humanizePercentage")
_AT = f"at {CLOCK}Hz of {_CLOCK_MAX}Hz and {TEMPERATURE} degrees Celsius"

SENTENCES: dict[Cause, str] = {
    Cause.CPU: f"The model runs on the CPU: {_ON_GPU} of it is on a GPU, memory bandwidth utilization {_BANDWIDTH}.",
    Cause.PARTIAL_OFFLOAD: f"Part of the model runs on the CPU: {_ON_GPU} of it is on the GPU.",
    Cause.THERMAL: f"The GPU is throttled because of heat {_throttled('hw_thermal|sw_thermal')} of the time, {_AT}.",
    Cause.HW_POWER_BRAKE: "The GPU is throttled by the power brake signal of the power supply "
    f"{_throttled('hw_power_brake')} of the time, {_AT}.",
    Cause.HW_SLOWDOWN: f"The GPU is in hardware slowdown {_throttled('hw_slowdown')} of the time, {_AT}.",
    Cause.CONTENDED: "Other work runs on the same GPU: many readings of the last hours are marked as contended.",
    Cause.POWER_CAP: f"The GPU is at its power limit {_throttled('sw_power_cap')} of the time: the limit was lowered, "
    "or another program uses the GPU.",
    Cause.WORKLOAD_CHANGED: "The prompt or the options of the probe changed, and the rate with them.",
    Cause.VERSION_CHANGED: "The version of Ollama changed, and the rate with it.",
    Cause.DIGEST_CHANGED: "The digest or the quantization of the model changed, and the rate with it.",
    Cause.DRIVER_CHANGED: "The GPU driver or the GPU changed, and the rate with it.",
    Cause.CLOCK_LOW: f"The clock of the GPU is low without a throttle reason, {_AT}.",
    Cause.NONE_VISIBLE: "The metrics of the probe show no cause: check for other work on the machine.",
}
"""What each cause means; the table of causes in runbook.md says what to do about it."""


def cause_sentence() -> str:
    """Return a template for the sentence of the alert's `cause` label."""
    return _choice("cause", SENTENCES.items())


SKIP_SENTENCES = {
    "unloaded": "the model was not loaded, and `when_unloaded: skip` does not load it.",
    "occupied": "another model was loaded, and loading this one might have evicted it. `when_unloaded: load` loads it "
    "anyway.",
    "overlap": "the previous probe of the model had not finished. Lengthen `interval`.",
    "late": "the probe could not start in time. Raise `max_concurrent_probes`, or lengthen `interval`.",
}
"""What each value of `ollama_probe_skipped_total{reason}` means, and what to do about it."""


def skip_sentence() -> str:
    """Return a template for the sentence of the alert's `reason` label."""
    return _choice("reason", SKIP_SENTENCES.items())


def _choice(label: str, texts: Iterable[tuple[str, str]]) -> str:
    """Return a template for the text of a label's value."""
    branches = (f'if eq $labels.{label} "{value}" }}}}{text}' for value, text in texts)
    return f"{{{{ {'{{ else '.join(branches)}{{{{ end }}}}"
