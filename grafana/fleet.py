"""The dashboard of all models: which GPU is fastest, which one underperforms, and what do the probes cost?"""

from __future__ import annotations

from colors import BAD, GOOD, WARNING
from dashboard import build_dashboard, format_model_columns, place_panels
from fields import (
    COLOR_BY_THRESHOLDS,
    COLORED_BACKGROUND,
    build_thresholds,
    list_properties,
)
from fleet_probes import build_cost_bars, build_exporter_charts, build_failure_bars
from grafana_foundation_sdk.builders.bargauge import Panel as BarsPanel
from grafana_foundation_sdk.builders.common import TableSortByFieldState
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.builders.table import Panel as TablePanel
from grafana_foundation_sdk.models.dashboard import DataTransformerConfig
from panels import NO_GPU_DATA, build_bars, build_table, build_table_query, format_column
from queries import DECODE_RATE, select_increase, select_reading, shorten_gpu

MODEL_AND_GPU = "{{model}}, {{gpu}}"


def build() -> Dashboard:
    """Return the dashboard."""
    dashboard = build_dashboard(
        "ollama-throughput-fleet",
        "Ollama throughput: fleet",
        "Which GPU is fastest, and which one underperforms?",
        "now-7d",
        annotated=False,
    )
    return place_panels(
        dashboard,
        [
            (8, [(12, build_gpu_table()), (12, build_peers_table())]),
            (8, [(8, bars) for bars in build_efficiency_bars()]),
            (7, [(6, bars) for bars in [*build_failure_bars(), *build_cost_bars()]]),
            (6, [(8, chart) for chart in build_exporter_charts()]),
        ],
    )


def average_by_gpu(metric: str) -> str:
    """Return the mean of a reading over the time range, by model and GPU."""
    return shorten_gpu(f"avg by (model, gpu) (avg_over_time({select_reading(metric)}[$__range]))")


def build_gpu_table() -> TablePanel:
    """Return the table of decode rates, with a row per model and a column per GPU product."""
    panel = build_table(
        "Tokens/s by model and GPU",
        "Decode rate in tokens per second, averaged over the time range and over the targets with that GPU. Compare "
        "along a row: the same model on different GPUs. A value in the cpu column means that the model moved from its "
        "GPU to the CPU, or that the target has no GPU.",
        ["model", "gpu", "Value"],
        build_table_query(average_by_gpu("decode_tokens_per_second")),
    )
    settings = {"columnField": "gpu", "rowField": "model", "valueField": "Value", "emptyValue": "null"}
    panel.transformations([DataTransformerConfig(id_val="groupingToMatrix", options=settings)])
    panel.decimals(1).override_by_regexp(".*", list_properties(noValue="-", custom__wrapHeaderText=True))
    return format_column(panel, "model\\gpu", "Model", custom__width=150)


def build_peers_table() -> TablePanel:
    """Return the table that compares each model with the same model on other targets."""
    key = "job, instance, target, model, gpu"
    rate = f"max by ({key}) ({DECODE_RATE})"
    on_gpu, on_cpu = (
        f"max by ({key}) ({select_reading('decode_tokens_per_second', matcher)})"
        for matcher in ('gpu!="cpu"', 'gpu="cpu"')
    )
    same_gpu = f"(quantile by (model, gpu) (0.75, {on_gpu}) and count by (model, gpu) ({on_gpu}) > 1)"
    any_gpu = f"quantile by (model) (0.75, {on_gpu})"
    peers = (
        f"{on_gpu} * 0 + on (model, gpu) group_left () {same_gpu} or {on_cpu} * 0 + on (model) group_left () {any_gpu}"
    )
    panel = build_table(
        "Same model across targets",
        "Last decode rate in tokens per second, and its deviation from the peers: the upper quartile of the same model "
        "on the same GPU product, or on all GPUs for a model on the CPU. Within 10 % is good; click an outlier to "
        "open its dashboard. Only models on at least two targets are listed.",
        ["model", "target", "gpu", "Value #rate", "Value #peer", "Value #against"],
        build_table_query(shorten_gpu(f"({rate}) and ({peers})"), ref_id="rate"),
        build_table_query(shorten_gpu(peers), ref_id="peer"),
        build_table_query(shorten_gpu(f"{rate} / ({peers}) - 1"), ref_id="against"),
    ).no_value("No model is measured on two targets with the same GPU, so there are no peers to compare with")
    format_model_columns(panel, model_width=130, target_width=90)
    format_column(panel, "Value #rate", "Tokens/s", decimals=1, custom__width=85)
    format_column(panel, "Value #peer", "Peers", decimals=1, custom__width=75)
    format_column(
        panel,
        "Value #against",
        "Deviation",
        unit="percentunit",
        decimals=0,
        custom__width=135,
        custom__cellOptions=COLORED_BACKGROUND,
        thresholds=build_thresholds((None, BAD), (-0.25, WARNING), (-0.1, "transparent")).build(),
    )
    return panel.sort_by([TableSortByFieldState().display_name("Deviation").desc(desc=False)])


def build_efficiency_bars() -> list[BarsPanel]:
    """Return the bars of bandwidth, energy and success."""
    bandwidth = build_bars(
        "Memory bandwidth used (roofline)",
        "Decode rate x model size in percent of the GPU's peak memory bandwidth, averaged over the time range; dense "
        "models only. It is comparable across models and GPUs, and 40-80 % is usual. Check a GPU that is far below "
        "others of its kind.",
        "percentunit",
        average_by_gpu("bandwidth_utilization_ratio"),
        MODEL_AND_GPU,
    )
    energy = build_bars(
        "Energy per token",
        "GPU energy in joules per output token, averaged over the time range; lower is better. Compare the same model "
        "on two GPUs to see which one is cheaper to run.",
        "joule",
        f"1 / {average_by_gpu('tokens_per_joule')}",
        MODEL_AND_GPU,
    )
    success = build_bars(
        "Successful probes",
        "Percentage of the probes in the time range that succeeded, by target. 100 % is good; otherwise see Failed "
        "probes by reason.",
        "percentunit",
        f"sum by (target) ({select_increase('successes_total')}) / sum by (target) ({select_increase('runs_total')})",
        "{{target}}",
    )
    levels = build_thresholds((None, BAD), (0.9, WARNING), (0.99, GOOD))
    return [
        bandwidth.max(1).no_value(NO_GPU_DATA),
        energy.decimals(2).no_value(NO_GPU_DATA),
        success.max(1).color_scheme(COLOR_BY_THRESHOLDS).thresholds(levels),
    ]
