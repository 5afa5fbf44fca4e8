"""The alerts: thin reads of the records, with the words that a person woken by them needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ruleset import intervals as steps
from ruleset.causes import Cause, sample, sentence
from ruleset.readings import DEGENERATE, DROP, RATE, STATE, TRUNCATED, Rule, latest
from ruleset.intervals import PAIR, Clock, duration

WHO = "{{ $labels.model }} on {{ $labels.target }}"
GPU = (
    '{{ with printf "ollama_probe_decode_tokens_per_second{job=%q,target=%q,model=%q}" $labels.job $labels.target '
    '$labels.model | query }} It last ran on: {{ . | first | label "gpu" }}.{{ end }}'
)
RATE_NOW = sample(f"{RATE}:usable{{PAIR}}", 'printf "%.1f"')
REFERENCE_NOW = sample(f"{RATE}:reference{{PAIR}}", 'printf "%.1f"')
REFUSED = "model_missing|unsupported"
HANGS = "no_first_token"


@dataclass(frozen=True, slots=True)
class Links:
    """Where an alert leads: the runbook, whose sections are named like the alerts, and the dashboard of a pair."""

    runbook: str
    dashboard: str


@dataclass(frozen=True, slots=True)
class Texts:
    """Builds alerts that all have the same labels and annotations."""

    links: Links
    clock: Clock

    def alert(
        self, name: str, severity: str, expr: str, summary: str, description: str, *, hold: float = 0, wait: float = 0
    ) -> Rule:
        """One alert. `hold` and `wait` are `keep_firing_for` and `for`, in seconds of wall clock."""
        variables = "var-target={{ $labels.target | urlquery }}&var-model={{ $labels.model | urlquery }}"
        timing = {"for": wait, "keep_firing_for": hold}
        return {
            "alert": name,
            "expr": expr,
            **{key: duration(max(self.clock.tick, self.clock.scaled(value))) for key, value in timing.items() if value},
            "labels": {"severity": severity},
            "annotations": {
                "summary": summary,
                "description": description,
                "runbook_url": f"{self.links.runbook}#{name.lower()}",
                "dashboard_url": f"{self.links.dashboard}?{variables}",
            },
        }


def throughput(texts: Texts) -> Iterator[Rule]:
    """The four levels, and lasting contention.

    The value is the share of the reference that the last runs reached; with no reading left, that of the beginning.
    """

    def active(level: str) -> str:
        state = f'max by ({PAIR}, cause) ({DROP}{{level="{level}"}})'
        now = f"{RATE}:ratio_best_recent" if level == "sudden" else f"{RATE}:ratio_recent"
        return f"{state} * 0 + on ({PAIR}) group_left () {now}\nor {state}"

    now = f"Latest clean reading {RATE_NOW} tokens/s, reference {REFERENCE_NOW}."
    for name, severity, level, summary, meaning in (
        (
            "OllamaProbeThroughputDropped",
            "critical",
            "sudden",
            "fell suddenly to {{ $value | humanizePercentage }} of its normal rate",
            "Every clean reading of the last runs was slow.",
        ),
        (
            "OllamaProbeThroughputLow",
            "critical",
            "deep",
            "has run for hours at {{ $value | humanizePercentage }} of its normal rate",
            "The upper quartile of half a day is below three quarters of the reference.",
        ),
        (
            "OllamaProbeThroughputDegraded",
            "warning",
            "degraded",
            "is degraded to {{ $value | humanizePercentage }} of its normal rate",
            "Half a day and more of readings lie below the reference.",
        ),
        (
            "OllamaProbeThroughputReduced",
            "info",
            "small",
            "is a little slow, at {{ $value | humanizePercentage }} of its normal rate",
            "The median of two days lies below the reference.",
        ),
    ):
        yield texts.alert(name, severity, active(level), f"{WHO} {summary}", f"{sentence()} {meaning} {now}{GPU}")
    contended = latest("ollama_probe:always_contended:measured_ratio", texts.clock)
    yield texts.alert(
        "OllamaProbeAlwaysContended",
        "warning",
        f'label_replace({contended}, "cause", "{Cause.CONTENDED}", "", "")',
        f"{WHO} is hardly ever measured alone, and runs at {{{{ $value | humanizePercentage }}}} of its normal rate",
        "Over three quarters of half a day's readings were taken beside other work on the GPU, so none of the other "
        "throughput alerts can judge the rate: the other work is the finding. "
        f"Reference {REFERENCE_NOW} tokens/s.{GPU}",
        hold=7200,
    )


def outages(texts: Texts) -> Iterator[Rule]:
    """Whatever leaves no reading to judge; failing takes three runs, and the reason of most decides the alert."""
    failing = "ollama_probe:failing:share"
    last_error = "The log of the exporter and `ollama-throughput-exporter probe` say more."
    yield texts.alert(
        "OllamaProbeModelMissing",
        "warning",
        f'{failing}{{reason=~"{REFUSED}"}}',
        f"{WHO} cannot be probed: {{{{ $labels.reason }}}}",
        f"The server answers but does not have the model, or cannot generate with it, for three runs. {last_error}",
    )
    yield texts.alert(
        "OllamaProbeGenerationHangs",
        "critical",
        f'{failing}{{reason="{HANGS}"}} and on (job, target) (max by (job, target) (ollama_probe_up) == 1)',
        f"{WHO} accepts requests but generates nothing",
        "No first token came within the probe's timeout, three runs in a row, while the server answers otherwise. "
        "Either the runner hangs, or all of the model's slots were busy throughout: a long queue looks the same from "
        "outside.",
    )
    yield texts.alert(
        "OllamaProbeFailing",
        "warning",
        f'{failing}{{reason!~"{REFUSED}|{HANGS}"}}',
        f"{WHO}: probes fail: {{{{ $labels.reason }}}}",
        "Three runs in a row measured nothing, most of them for the reason named (`mixed`: no reason has most). "
        f"{last_error}",
    )
    tick = texts.clock.tick
    last_run = f"max by ({PAIR}) (ollama_probe_last_run_timestamp_seconds)"
    interval, timeout = (f"max by ({PAIR}) (ollama_probe_{name}_seconds)" for name in ("interval", "timeout"))
    process = "on (job, instance) group_left () process_start_time_seconds"
    started = f"max by ({PAIR}) (ollama_probe_interval_seconds * 0 + {process})"
    yield texts.alert(
        "OllamaProbeStale",
        "warning",
        f"time() - ({last_run} or {started})\n> 3 * {interval} + {timeout} + {tick:g}",
        f"{WHO} has not been probed for {{{{ $value | humanizeDuration }}}}",
        "The exporter is up, but three intervals and a timeout have passed without a run: its schedule is stuck, or "
        "the probes of this target take longer than their intervals.",
    )
    yield texts.alert(
        "OllamaProbeTargetDown",
        "critical",
        "max by (job, target) (ollama_probe_up) == 0",
        "The Ollama server {{ $labels.target }} does not answer",
        "The exporter has asked it for its version every minute, and got no answer within 5 seconds.",
        wait=300,
    )
    known = f"last_over_time(ollama_probe_build_info[{texts.clock.window(21600)}])"
    down = f"max by (job, instance) (up) == 0 and on (job, instance) {known}"
    day = texts.clock.window(86400)
    up = "count by (job) (ollama_probe_build_info)"
    ran = f"max by ({PAIR}) (ollama_probe_last_run_timestamp_seconds offset {day})"
    yield texts.alert(
        "OllamaProbeSeriesMissing",
        "warning",
        f"({ran} unless on ({PAIR}) ollama_probe_interval_seconds)\nand on (job) {up}\nunless on (job) ({down})",
        f"{WHO} is no longer probed",
        "It was a day ago, and the exporters of its job are up. If it was taken out of the configuration on purpose, "
        "this ends by itself a day later.",
        wait=900,
    )
    yield texts.alert(
        "OllamaProbeExporterDown",
        "warning",
        f"{down}\nor (max by (job) ({known}) unless on (job) up)",
        "The exporter {{ $labels.job }} {{ $labels.instance }} cannot be scraped",
        "Nothing of its models is known until it returns. Throughput alerts that fire are held for six hours.",
        wait=600,
    )


def conditions(texts: Texts) -> Iterator[Rule]:
    """States that are worth knowing without a drop: of three runs, so that one odd reading is nothing."""
    hold = 900.0
    week = f"[{texts.clock.window(steps.NORM_WINDOW)}:{texts.clock.window(steps.HOUR)}]"
    chronic = f'sum_over_time({STATE}:latest{{state="{Cause.CPU}"}}{week}) > 150'
    yield texts.alert(
        "OllamaProbeModelPartlyOnCPU",
        "info",
        f'{STATE}:recent{{state="{Cause.PARTIAL_OFFLOAD}"}} > 0.02\nunless on ({PAIR}) ({chronic})',
        f"{{{{ $value | humanizePercentage }}}} of {WHO} is not on a GPU",
        "Layers that run on the CPU slow the whole model: a quarter of them can cost most of the rate. A model that "
        f"has been wholly on the CPU for a week is taken for meant so.{GPU}",
        hold=hold,
    )
    yield texts.alert(
        "OllamaProbeThermalThrottling",
        "info",
        f'{STATE}:recent{{state="{Cause.THERMAL}"}} > 0.3',
        f"The GPU of {WHO} is throttled by heat {{{{ $value | humanizePercentage }}}} of the time",
        f"Temperature {sample('max(ollama_probe_gpu_temperature_celsius{PAIR})')} degrees Celsius, clock "
        f"{sample('min(ollama_probe_gpu_clock_hertz{PAIR})')}Hz, during the last three probes.{GPU}",
        hold=hold,
    )
    yield texts.alert(
        "OllamaProbeDegenerateOutput",
        "warning",
        f'{STATE}:recent{{state="{DEGENERATE}"}} > 0.9',
        f"{WHO} repeats itself: {{{{ $value | humanizePercentage }}}} of its chunks are repetitions",
        f"The last three answers were nearly one token over and over. A rate measured so says nothing.{GPU}",
        hold=hold,
    )
    yield texts.alert(
        "OllamaProbeAlwaysTruncated",
        "warning",
        f'{STATE}:recent{{state="{TRUNCATED}"}} > 0.99',
        f"{WHO} never finishes an answer",
        "The last three answers were cut by the probe's timeout, or by the server; rates are by the client's clock "
        f"then. Latest clean reading {RATE_NOW} tokens/s, timeout "
        f"{sample('max(ollama_probe_timeout_seconds{PAIR})')} s.{GPU}",
        hold=hold,
    )
