"""Model and GPU: what happened to one model on one GPU?"""

from __future__ import annotations

from causes import map_causes, select_cause
from colors import BAD, GOOD, WARNING
from dashboard import MODEL_DASHBOARD_UID, NAME, build_dashboard, place_panels
from fields import build_thresholds, map_values
from grafana_foundation_sdk.builders.common import ReduceDataOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.builders.stat import Panel as StatPanel
from grafana_foundation_sdk.builders.table import Panel as TablePanel
from grafana_foundation_sdk.models.common import BigValueTextMode
from model_charts import build_gpu_charts, build_rate_chart, build_stages_chart, build_work_charts
from panels import build_stat, build_table, build_table_query, format_column
from queries import (
    DECODE_RATE,
    EXPORTER,
    MODEL,
    RECORD_KEY,
    TARGET,
    exclude_other_gpus,
    select_baseline,
    select_reading,
    select_record,
    select_status,
    shorten_gpu,
)


def build() -> Dashboard:
    """Return the dashboard."""
    dashboard = build_dashboard(
        MODEL_DASHBOARD_UID,
        "Ollama throughput: model and GPU",
        "What happened to this model on this GPU?",
        "now-7d",
    )
    stats = [(3, panel) for panel in build_stats()]
    charts = [
        (9, [(12, build_rate_chart()), (12, build_stages_chart())]),
        *((7, [(12, gpu), (12, work)]) for gpu, work in zip(build_gpu_charts(), build_work_charts(), strict=True)),
    ]
    for _, row in charts:
        for _, chart in row:
            chart.axis_width(60)  # charts of one column have the same time axis
    return place_panels(dashboard, [(3, stats), *charts, (5, [(24, build_details_table())])])


def build_stats() -> list[StatPanel]:
    """Return the numbers of the first row."""
    ratio = f"max by ({RECORD_KEY}) ({DECODE_RATE}) / on ({RECORD_KEY}) {select_baseline()}"
    return [
        build_stat(
            "Tokens/s",
            "Decode rate of the last reading: tokens per second while generating, counted and timed by Ollama. It "
            "shows the state of the GPU and is what the alerts use.",
            "none",
            DECODE_RATE,
            NAME,
        ).decimals(1),
        build_stat(
            "Of baseline",
            "Decode rate of the last reading in percent of the baseline: the rules' reference, or without it the "
            "configured expected rate or the median of one week. Over 92 % is good; under 75 % is bad.",
            "percentunit",
            ratio,
            NAME,
        )
        .decimals(0)
        .thresholds(build_thresholds((None, BAD), (0.75, WARNING), (0.92, GOOD))),
        build_cause_stat(),
        build_stat(
            "GPU",
            "What ran the model in the last reading. If it is cpu and should be a GPU, restart Ollama and check the "
            "GPU driver.",
            "none",
            shorten_gpu(DECODE_RATE),
            "{{gpu}}",
        ).text_mode(BigValueTextMode.NAME),
        build_stat(
            "Words/s",
            "Words (whitespace-separated tokens) of the last answer per second of elapsed time, as the LangChain "
            "reference script reports them. It is lower than Tokens/s, because many words are several tokens.",
            "none",
            select_reading("tokens_per_second"),
            NAME,
        ).decimals(2),
        build_stat(
            "Words",
            "Number of words (whitespace-separated tokens) in the last answer. It should not change; `num_predict` "
            "limits it.",
            "none",
            select_reading("token_count"),
            NAME,
        ),
        build_stat(
            "Elapsed",
            "Wall-clock seconds of the last call of the chain, with the model already loaded. A rise without a rise of "
            "Words means that the model or the server got slower.",
            "s",
            select_reading("elapsed_seconds"),
            NAME,
        ).decimals(2),
        build_stat(
            "Last reading",
            "Time since the last successful probe. Up to two probe intervals is good; if it is more, see the failed "
            "probes on the fleet dashboard.",
            "s",
            f"time() - {select_status('last_success_timestamp_seconds')}",
            NAME,
        ).decimals(0),
    ]


def build_cause_stat() -> StatPanel:
    """Return the stat panel that names the cause of a drop."""
    reference = select_record("ollama_probe:decode_tokens_per_second:reference")
    no_drop = f'label_replace({reference} * 0, "cause", "no_drop", "", "")'
    cause = f"{select_cause()} or on ({RECORD_KEY}) max by ({RECORD_KEY}, cause) ({no_drop})"
    return (
        build_stat(
            "Cause",
            "First cause that the shipped rules found for a drop, or the reason why probes fail. Good is “no drop”. "
            "The runbook describes what to do about each cause.",
            "none",
            cause,
        )
        .targets([build_table_query(cause)])
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(values=False).fields("/^cause$/"))
        .mappings([map_causes(), map_values({"no_drop": ("no drop", GOOD)})])
        .no_value("no rules loaded")
    )


def build_details_table() -> TablePanel:
    """Return the table of what was measured: model, server, workload and GPU."""
    identity = "job, instance, target, model"
    details = "family, parameter_size, quantization, context_length, digest"
    model = exclude_other_gpus(f"ollama_probe_model_info{{{MODEL}}}")
    server = f"group_left (version) ollama_probe_server_info{{{TARGET}}}"
    version = f"{select_status('interval_seconds')} * 0 + on (job, instance, target) {server}"
    gpu = exclude_other_gpus(f"ollama_probe_model_gpu_info{{{MODEL}}}")
    driver = f"{gpu} * on (job, instance, uuid) group_left (driver_version, index) ollama_probe_gpu_info{{{EXPORTER}}}"
    titles = {
        "model": "Model",
        "target": "Target",
        "parameter_size": "Size",
        "quantization": "Quantization",
        "context_length": "Context",
        "digest": "Digest",
        "version": "Ollama",
        "hash": "Workload",
        "index": "GPU index",
        "driver_version": "GPU driver",
        "uuid": "GPU UUID",
    }
    panel = build_table(
        "Model, server and GPU details",
        "Last known properties of each model, its server and its GPU; a change can explain a step in the rate. Rates "
        "are comparable only within one workload hash. GPU columns need an exporter on the Ollama host.",
        list(titles),
        build_table_query(f"max by ({identity}, {details}) ({model})", ref_id="model"),
        build_table_query(f"max by ({identity}, version) ({version})", ref_id="version"),
        build_table_query(f"max by ({identity}, hash) ({select_status('workload_info')})", ref_id="workload"),
        build_table_query(f"max by ({identity}, uuid, index, driver_version) ({driver})", ref_id="card"),
    )
    for name, title in titles.items():
        format_column(panel, name, title)
    return panel
