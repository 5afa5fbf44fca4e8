"""The alerts: thin expressions over the recorded series, with the texts that an on-call person needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ruleset import thresholds
from ruleset.annotations import (
    CLOCK,
    GPU,
    MODEL,
    RATE_NOW,
    REFERENCE_NOW,
    TEMPERATURE,
    TIMEOUT,
    cause_sentence,
    skip_sentence,
)
from ruleset.causes import Cause
from ruleset.intervals import MODEL_KEY, Clock, format_duration, per_interval_range, three_runs_window
from ruleset.recording import (
    ALWAYS_CONTENDED,
    DEGENERATE,
    DROP,
    FAILING,
    RATE,
    STATE,
    TRUNCATED,
    UNMEASURED,
    Rule,
    last_slow,
)

MODEL_REASONS = "model_missing|unsupported"
HANG_REASON = "no_first_token"


@dataclass(frozen=True, slots=True)
class Links:
    """The base URLs of an alert's links: the runbook, which has a section per alert, and the dashboard of a model."""

    runbook: str
    dashboard: str


@dataclass(frozen=True, slots=True)
class AlertTemplate:
    """What all alerts have in common: links, labels and the clock of their durations."""

    links: Links
    clock: Clock

    def alert(
        self,
        name: str,
        severity: str,
        expr: str,
        summary: str,
        description: str,
        *,
        hold: float = 0,
        wait: float = 0,
        about: Sequence[str] = ("target", "model"),
    ) -> Rule:
        """Return an alerting rule.

        `hold` and `wait` are `keep_firing_for` and `for`, in seconds of wall clock. `about` names the labels that the
        alert has and that select what the dashboard shows.
        """
        variables = "&".join(f"var-{label}={{{{ $labels.{label} | urlquery }}}}" for label in about)
        dashboard = f"{self.links.dashboard}?{variables}" if variables else self.links.dashboard
        timing = {
            key: format_duration(max(self.clock.fast_interval, self.clock.scaled(seconds)))
            for key, seconds in (("for", wait), ("keep_firing_for", hold))
            if seconds
        }
        return {
            "alert": name,
            "expr": expr,
            **timing,
            "labels": {"severity": severity},
            "annotations": {
                "summary": summary,
                "description": description,
                "runbook_url": f"{self.links.runbook}#{name.lower()}",
                "dashboard_url": dashboard,
            },
        }


def throughput(template: AlertTemplate) -> Iterator[Rule]:
    """Yield the alerts of the four levels, and of lasting contention.

    Their value is the share of the reference rate that the last runs reached; without readings, the share at which the
    alert began.
    """

    def active(level: str) -> str:
        state = f'max by ({MODEL_KEY}, cause) ({DROP}{{level="{level}"}})'
        now = f"{RATE}:ratio_best_recent" if level == "sudden" else f"{RATE}:ratio_recent"
        return f"{state} * 0 + on ({MODEL_KEY}) group_left () {now}\nor {state}"

    now = f"Last clean reading {RATE_NOW} tokens/s, reference rate {REFERENCE_NOW} tokens/s."
    for name, severity, level, summary, condition in (
        (
            "OllamaProbeThroughputDropped",
            "critical",
            "sudden",
            "dropped to {{ $value | humanizePercentage }} of its reference rate",
            "Every clean reading of the last runs was slow.",
        ),
        (
            "OllamaProbeThroughputLow",
            "critical",
            "deep",
            "has been at {{ $value | humanizePercentage }} of its reference rate for hours",
            f"The upper quartile of 12 hours fell below {thresholds.DEEP_FIRES:.0%} of the reference rate.",
        ),
        (
            "OllamaProbeThroughputDegraded",
            "warning",
            "degraded",
            "is degraded to {{ $value | humanizePercentage }} of its reference rate",
            (
                f"The upper quartile of 12 hours fell below {thresholds.DEGRADED_FIRES:.0%} of the reference rate, or "
                f"the median of 24 hours below {thresholds.DEGRADED_DAY_FIRES:.0%}."
            ),
        ),
        (
            "OllamaProbeThroughputReduced",
            "info",
            "small",
            "is slightly below its reference rate, at {{ $value | humanizePercentage }}",
            f"The median of 48 hours fell below {thresholds.SMALL_FIRES:.0%} of the reference rate.",
        ),
    ):
        description = f"{cause_sentence()} {condition} {now}{GPU}"
        yield template.alert(name, severity, active(level), f"{MODEL} {summary}", description)
    contended = last_slow(ALWAYS_CONTENDED, template.clock)
    yield template.alert(
        "OllamaProbeAlwaysContended",
        "warning",
        f'label_replace({contended}, "cause", "{Cause.CONTENDED}", "", "")',
        f"{MODEL} is almost always contended, and at {{{{ $value | humanizePercentage }}}} of its reference rate",
        f"Other work used the GPU during more than {thresholds.ALWAYS_CONTENDED_SHARE:.0%} of the readings of 12 "
        "hours. The other throughput alerts ignore contended readings and cannot evaluate this model. "
        f"Reference rate {REFERENCE_NOW} tokens/s.{GPU}",
        hold=7200,
    )


def outages(template: AlertTemplate) -> Iterator[Rule]:
    """Yield the alerts of missing readings.

    Failing takes three runs, and the reason of most of them selects the alert.
    """
    clock = template.clock
    see_also = "See the log of the exporter, or run `ollama-throughput-exporter probe`."
    yield template.alert(
        "OllamaProbeModelMissing",
        "warning",
        f'{FAILING}{{reason=~"{MODEL_REASONS}"}}',
        f"{MODEL} cannot be probed: {{{{ $labels.reason }}}}",
        "At least three probes in a row failed: the server answers, but does not have the model or cannot generate "
        f"text with it. {see_also}",
    )
    yield template.alert(
        "OllamaProbeGenerationHangs",
        "critical",
        f'{FAILING}{{reason="{HANG_REASON}"}} and on (job, target) (max by (job, target) (ollama_probe_up) == 1)',
        f"{MODEL} accepts requests but generates nothing",
        "At least three probes in a row received no first token within their timeout, although the server answers "
        "other requests. Either the runner hangs, or all parallel slots of the model were busy: a long queue cannot "
        "be distinguished from a hang.",
    )
    yield template.alert(
        "OllamaProbeFailing",
        "warning",
        f'{FAILING}{{reason!~"{MODEL_REASONS}|{HANG_REASON}"}}',
        f"Probes of {MODEL} fail: {{{{ $labels.reason }}}}",
        "At least three probes in a row failed, most of them with this reason (`mixed`: no reason has a majority). "
        f"{see_also}",
    )
    last_run = f"max by ({MODEL_KEY}) (ollama_probe_last_run_timestamp_seconds)"
    interval, timeout = (f"max by ({MODEL_KEY}) (ollama_probe_{name}_seconds)" for name in ("interval", "timeout"))
    process = "on (job, instance) group_left () process_start_time_seconds"
    started = f"max by ({MODEL_KEY}) (ollama_probe_interval_seconds * 0 + {process})"
    yield template.alert(
        "OllamaProbeStale",
        "warning",
        f"time() - ({last_run} or {started})\n> 3 * {interval} + {timeout} + {clock.fast_interval:g}",
        f"{MODEL} has not been probed for {{{{ $value | humanizeDuration }}}}",
        "The exporter is up, but more than three intervals and a timeout have passed without a probe: its schedule is "
        "stuck, or the probes of this target take longer than their intervals.",
    )
    yield template.alert(
        "OllamaProbeTargetDown",
        "critical",
        "max by (job, target) (ollama_probe_up) == 0",
        "The Ollama server {{ $labels.target }} is down",
        "The server has not answered /api/version within 5 seconds for 5 minutes.",
        wait=300,
        about=["target"],
    )
    known = f"last_over_time(ollama_probe_build_info[{clock.window(21600)}])"
    down = f"max by (job, instance) (up) == 0 and on (job, instance) {known}"
    day = clock.window(thresholds.DAY)
    up = "count by (job) (ollama_probe_build_info)"
    ran = f"max by ({MODEL_KEY}) (ollama_probe_last_run_timestamp_seconds offset {day})"
    yield template.alert(
        "OllamaProbeSeriesMissing",
        "warning",
        f"({ran} unless on ({MODEL_KEY}) ollama_probe_interval_seconds)\nand on (job) {up}\nunless on (job) ({down})",
        f"{MODEL} is no longer probed",
        "It was probed a day ago, and the exporters of its job are up. If it was removed from the configuration on "
        "purpose, this alert resolves one day after the removal.",
        wait=900,
    )
    yield template.alert(
        "OllamaProbeExporterDown",
        "warning",
        f"{down}\nor (max by (job) ({known}) unless on (job) up)",
        "The exporter of job {{ $labels.job }}{{ with $labels.instance }} on {{ . }}{{ end }} cannot be scraped",
        "Its models are not monitored until it returns. Throughput alerts that are firing are held for six hours.",
        wait=600,
        about=[],
    )


def gaps(template: AlertTemplate) -> Iterator[Rule]:
    """Yield the alerts about models that are not probed at all, without a failed probe."""
    present = f"max by ({MODEL_KEY}) (ollama_probe_interval_seconds)"
    yield template.alert(
        "OllamaProbeSkipped",
        "info",
        f"topk by ({MODEL_KEY}) (1, {last_slow(UNMEASURED, template.clock)})\n"
        f"and on ({MODEL_KEY}) {present}\n"
        f"unless on ({MODEL_KEY}) ollama_probe_decode_tokens_per_second",
        f"{MODEL} has not been measured for a day: its probes are skipped ({{{{ $labels.reason }}}})",
        "No probe of the last day succeeded, and most of them were skipped. The most frequent reason: "
        f"{skip_sentence()}",
    )
    yield template.alert(
        "OllamaProbeDiscoveryFailed",
        "warning",
        "max by (job, target) (ollama_probe_discovery_success) == 0\n"
        "and on (job, target) max by (job, target) (ollama_probe_up) == 1",
        "The models of {{ $labels.target }} cannot be listed",
        "The server answers /api/version, but its models could not be listed for 15 minutes. Models that were found "
        "before are still probed; new ones are not. See the log of the exporter.",
        wait=900,
        about=["target"],
    )
    yield template.alert(
        "OllamaProbeConfigReloadFailed",
        "warning",
        "max by (job, instance) (ollama_probe_config_last_reload_successful) == 0",
        "The exporter on {{ $labels.instance }} could not reload its configuration",
        "It continues with the previous configuration until it is restarted. Run `ollama-throughput-exporter "
        "check-config`, or see the log of the exporter.",
        wait=300,
        about=[],
    )


def conditions(template: AlertTemplate) -> Iterator[Rule]:
    """Yield the alerts of states that matter without a drop, most of them averaged over three runs."""
    hold = 900.0
    week = f"[{template.clock.window(thresholds.NORM_WINDOW)}:{template.clock.window(thresholds.HOUR)}]"
    chronic = f'sum_over_time({STATE}:latest{{state="{Cause.CPU}"}}{week}) > 150'

    def on_cpu(seconds: float) -> str:
        return f'last_over_time({STATE}:latest{{state="{Cause.PARTIAL_OFFLOAD}"}}[{format_duration(seconds)}]) > 0.02'

    # The last reading, not a mean: what is on the CPU is read from the server and has no noise.
    yield template.alert(
        "OllamaProbeModelPartlyOnCPU",
        "info",
        f"(\n{per_interval_range(template.clock, on_cpu, three_runs_window)}\n)\nunless on ({MODEL_KEY}) ({chronic})",
        f"{{{{ $value | humanizePercentage }}}} of {MODEL} is on the CPU",
        "{{ if eq $value 1.0 }}The model runs on the CPU alone, which is usually many times slower than a GPU."
        "{{ else }}Layers on the CPU slow down the whole model: a quarter of them can cost most of the rate."
        f"{{{{ end }}}} If that is intended, set `cpu_intended: true`.{GPU}",
        hold=hold,
    )
    yield template.alert(
        "OllamaProbeThermalThrottling",
        "info",
        f'{STATE}:recent{{state="{Cause.THERMAL}"}} > 0.3',
        f"The GPU of {MODEL} is thermally throttled {{{{ $value | humanizePercentage }}}} of the time",
        f"Temperature {TEMPERATURE} degrees Celsius, clock {CLOCK}Hz, during the last three probes.{GPU}",
        hold=hold,
    )
    yield template.alert(
        "OllamaProbeDegenerateOutput",
        "warning",
        f'{STATE}:recent{{state="{DEGENERATE}"}} > 0.9',
        f"{MODEL} repeats itself: {{{{ $value | humanizePercentage }}}} of its chunks are repetitions",
        "The last three answers consist almost entirely of one repeated token. A rate measured on such an answer is "
        f"meaningless.{GPU}",
        hold=hold,
    )
    yield template.alert(
        "OllamaProbeAlwaysTruncated",
        "warning",
        f'{STATE}:recent{{state="{TRUNCATED}"}} > 0.99',
        f"{MODEL} never finishes an answer",
        "The last three answers were cut off by the timeout of the probe or by the server. Their rates are measured "
        f"with the exporter's clock. Last clean reading {RATE_NOW} tokens/s, timeout {TIMEOUT} s.{GPU}",
        hold=hold,
    )
