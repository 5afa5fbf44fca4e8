"""The probes and the exporter themselves: failures, skipped probes, costs, CPU and memory."""

from __future__ import annotations

from causes import list_reasons
from colors import ORANGE, RED
from fields import use_one_color
from grafana_foundation_sdk.builders.bargauge import Panel as BarsPanel
from grafana_foundation_sdk.builders.timeseries import Panel as ChartPanel
from panels import NO_GPU_DATA, build_bars, build_line_chart, build_query, color_lines_by_level
from queries import EXPORTER, select_increase

from exporter.errors import Reason, SkipReason


def build_failure_bars() -> list[BarsPanel]:
    """Return the bars of failed and skipped probes."""
    failed = build_bars(
        "Failed probes by reason",
        "Number of failed probes in the time range, by target and reason. 0 is good.\n\n"
        + list_reasons({reason: reason.remedy for reason in Reason}),
        "none",
        f"sum by (target, reason) ({select_increase('failures_total')}) > 0.5",
        "{{target}}: {{reason}}",
    )
    skipped = build_bars(
        "Skipped probes by reason",
        "Number of scheduled probes in the time range that were skipped, by target and reason. A few are usual.\n\n"
        + list_reasons({reason: reason.text for reason in SkipReason}),
        "none",
        f"sum by (target, reason) ({select_increase('skipped_total')}) > 0.5",
        "{{target}}: {{reason}}",
    )
    return [
        failed.decimals(0).color_scheme(use_one_color(RED)).no_value("No probe failed in this time range"),
        skipped.decimals(0).color_scheme(use_one_color(ORANGE)).no_value("No probe was skipped in this time range"),
    ]


def build_cost_bars() -> list[BarsPanel]:
    """Return the bars of the time and the energy that the probes took."""
    time = build_bars(
        "Time spent probing",
        "Time in probes, model load included, in percent of the time range. Below 2 % is good; if it is more, make the "
        "probe interval longer or probe fewer models.",
        "percentunit",
        f"sum by (target) ({select_increase('run_duration_seconds_sum')}) / $__range_s",
        "{{target}}",
    )
    energy = build_bars(
        "Energy spent probing",
        "GPU energy of successful probes in the time range, in joules. 3.6 MJ is one kilowatt-hour.",
        "joule",
        f"sum by (target) ({select_increase('gpu_consumed_joules_total')}) > 0",
        "{{target}}",
    )
    return [time.decimals(2), energy.no_value(NO_GPU_DATA)]


def build_exporter_charts() -> list[ChartPanel]:
    """Return the charts of the exporter itself."""
    up = build_line_chart(
        "Exporter up",
        "Whether Prometheus could scrape the exporter; 100 % is good. While it could not, this dashboard has no data.",
        "percentunit",
        build_query("avg by (instance) (up{" + EXPORTER + "})", "{{instance}}"),
    )
    cpu = build_line_chart(
        "Exporter CPU",
        "CPU cores used by the exporter; the highest value, if several exporters are selected. A few hundredths are "
        "good; more can disturb the timing of a running probe.",
        "none",
        build_query("max(rate(process_cpu_seconds_total{" + EXPORTER + "}[$__rate_interval]))", "cores"),
    )
    memory = build_line_chart(
        "Exporter memory",
        "Resident memory of the exporter in bytes; the highest value, if several exporters are selected. Flat is good; "
        "a steady rise is a leak.",
        "bytes",
        build_query("max(process_resident_memory_bytes{" + EXPORTER + "})", "resident memory"),
    )
    return [color_lines_by_level(up.max(1), 0.9, 1), cpu.axis_soft_max(0.1), memory]
