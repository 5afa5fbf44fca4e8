"""The overview: is every model on every GPU as fast as it should be?"""

from __future__ import annotations

from causes import map_causes, select_cause
from colors import BAD, GOOD, WARNING
from dashboard import NAME, build_dashboard, format_model_columns, place_panels
from fields import COLORED_BACKGROUND, COLORED_TEXT, build_thresholds, map_values
from grafana_foundation_sdk.builders.common import TableSortByFieldState
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.builders.stat import Panel as StatPanel
from grafana_foundation_sdk.builders.table import Panel as TablePanel
from grafana_foundation_sdk.builders.timeseries import Panel as ChartPanel
from panels import (
    NO_RULES,
    build_line_chart,
    build_query,
    build_ranked_line_chart,
    build_stat,
    build_table,
    build_table_query,
    color_lines_by_level,
    format_column,
)
from queries import (
    DECODE_RATE,
    FIRING_ALERTS,
    RECORD_KEY,
    TARGET,
    select_baseline,
    select_reading,
    select_record,
    select_status,
    shorten_gpu,
)

RATE = f"max by ({RECORD_KEY}, gpu) ({DECODE_RATE})"
DROP = f"1 - max by ({RECORD_KEY}) ({DECODE_RATE}) / on ({RECORD_KEY}) {select_baseline()}"
MODELS = f"count({select_status('interval_seconds')})"


def build() -> Dashboard:
    """Return the dashboard."""
    dashboard = build_dashboard(
        "ollama-throughput-overview",
        "Ollama throughput: overview",
        "Is every model on every GPU as fast as it should be?",
        "now-24h",
    )
    models, *counts = build_stats()
    stats = [(4, models), *((5, count) for count in counts)]
    charts = [(8, chart) for chart in build_charts()]
    return place_panels(dashboard, [(3, stats), (9, [(24, build_models_table())]), (9, charts)])


def build_stats() -> list[StatPanel]:
    """Return the numbers of the first row."""
    models = build_stat(
        "Models measured",
        "Number of models that are probed and match the filters above. A model on two targets counts twice.",
        "none",
        MODELS,
    )
    slow = build_stat(
        "Over 10 % below baseline",
        "Number of models whose last reading is more than 10 % below their baseline. Good is 0, but a single low "
        "reading can come from other work on the GPU. The table below names the models.",
        "none",
        f"count(({DROP}) > 0.1) or 0 * {MODELS}",
    ).thresholds(build_thresholds((None, GOOD), (1, WARNING)))
    failing = build_stat(
        "Last probe failed",
        "Number of models whose last probe failed. Good is 0. The table below shows why.",
        "none",
        f"count({select_status('success')} == 0) or 0 * {MODELS}",
    )
    down = build_stat(
        "Targets down",
        "Number of targets that did not answer `/api/version`. Good is 0. Otherwise start Ollama there, or correct "
        "the network or the URL.",
        "none",
        f"count(ollama_probe_up{{{TARGET}}} == 0) or 0 * count(ollama_probe_up{{{TARGET}}})",
    )
    firing = build_stat(
        "Alerts firing",
        "Number of firing alerts of the shipped rules, except severity info. Good is 0. It is always 0 if the rules "
        "are not loaded.",
        "none",
        f"count({FIRING_ALERTS}) or 0 * {MODELS}",
    )
    for panel in (failing, down, firing):
        panel.thresholds(build_thresholds((None, GOOD), (1, BAD)))
    return [models, slow, failing, down, firing]


def build_models_table() -> TablePanel:
    """Return the table of all models, the furthest below its baseline first."""
    age = f"time() - max by ({RECORD_KEY}) ({select_status('last_success_timestamp_seconds')})"
    panel = build_table(
        "All models, furthest below baseline first",
        "Last decode rate of each model in tokens per second while generating, and its baseline: the rules' reference, "
        "or without it the configured expected rate or the median of one week. Up to 8 % below baseline is good; at "
        "25 % or more see Cause, or click the model to open its dashboard. GPU shows what ran the model; Reported on "
        "GPU shows what Ollama reports, which can be wrong.",
        [
            "model",
            "target",
            "gpu",
            "Value #rate",
            "Value #baseline",
            "Value #drop",
            "cause",
            "Value #success",
            "Value #age",
            "Value #offload",
        ],
        build_table_query(f"max by ({RECORD_KEY}) ({select_status('success')})", ref_id="success"),
        build_table_query(shorten_gpu(RATE), ref_id="rate"),
        build_table_query(select_baseline(), ref_id="baseline"),
        build_table_query(DROP, ref_id="drop"),
        build_table_query(select_cause(), ref_id="cause"),
        build_table_query(age, ref_id="age"),
        build_table_query(f"min by ({RECORD_KEY}) ({select_reading('model_gpu_ratio')})", ref_id="offload"),
    )
    format_model_columns(panel, model_width=165, target_width=110)
    format_column(panel, "Value #rate", "Tokens/s", decimals=1, custom__width=90)
    format_column(panel, "Value #baseline", "Baseline", decimals=1, custom__width=85)
    format_column(
        panel,
        "Value #drop",
        "Below baseline",
        unit="percentunit",
        decimals=0,
        custom__width=135,
        custom__cellOptions=COLORED_BACKGROUND,
        thresholds=build_thresholds((None, "transparent"), (0.08, WARNING), (0.25, BAD)).build(),
    )
    format_column(panel, "cause", "Cause", mappings=[map_causes()], custom__cellOptions=COLORED_TEXT, custom__width=165)
    format_column(
        panel,
        "Value #success",
        "Probe",
        mappings=[map_values({"1": ("ok", GOOD), "0": ("failed", BAD)})],
        custom__cellOptions=COLORED_TEXT,
        custom__width=75,
    )
    format_column(panel, "Value #age", "Last reading", unit="s", decimals=0, custom__width=110)
    format_column(
        panel,
        "Value #offload",
        "Reported on GPU",
        unit="percentunit",
        decimals=0,
        custom__width=140,
        custom__cellOptions=COLORED_TEXT,
        thresholds=build_thresholds((None, BAD), (0.5, WARNING), (0.98, "text")).build(),
    )
    return panel.sort_by([TableSortByFieldState().display_name("Below baseline").desc(desc=True)])


def build_charts() -> list[ChartPanel]:
    """Return the charts of the rates over time."""
    relative = build_line_chart(
        "Decode rate relative to baseline",
        "Decode rate of each model in percent of its baseline, without contended readings. A flat line at 100 % is "
        "good; the rules warn when a model stays below 90 % for half a day. Requires the shipped rules.",
        "percentunit",
        build_query(select_record("ollama_probe:decode_tokens_per_second:ratio"), NAME),
    )
    color_lines_by_level(relative.no_value(NO_RULES).axis_soft_max(1.1), 0.75, 0.92)
    by_model = build_ranked_line_chart(
        "Decode rate by model",
        "Tokens per second while generating, averaged over the targets that have the model; the five fastest are "
        "coloured. Look for steps that last. A gap means that no probe succeeded.",
        "model",
        DECODE_RATE,
        "{{model}}",
    )
    by_gpu = build_ranked_line_chart(
        "Decode rate by GPU",
        "Tokens per second while generating, averaged over the models measured on the GPU. Compare a GPU with its own "
        "past only, because models differ. A new line named cpu means that a model moved from its GPU to the CPU.",
        "gpu",
        DECODE_RATE,
        "{{gpu}}",
    )
    return [relative, by_model, by_gpu]
