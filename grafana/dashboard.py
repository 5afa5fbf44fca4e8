"""What all dashboards share: variables, annotations, links, columns of models, and the layout on the grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from colors import BAD, MAGENTA, ORANGE, RED, TEAL, VIOLET
from fields import COLORED_TEXT, map_values
from grafana_foundation_sdk.builders import table
from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import AnnotationQuery as Annotation
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    GridPos,
    VariableRefresh,
    VariableSort,
)
from panels import SOURCE, Panel, format_column
from queries import EXPORTER, FIRING_ALERTS, MODEL, TARGET, detect_change, exclude_other_gpus

TAG = "ollama-throughput"
MODEL_DASHBOARD_UID = "ollama-throughput"
NAME = "{{model}} on {{target}}"
"""The legend of a series of one model."""


def build_dashboard(uid: str, title: str, description: str, start: str, *, annotated: bool = True) -> Dashboard:
    """Return a dashboard without panels. `start` is the beginning of its time range, such as `now-7d`."""
    models = f"ollama_probe_interval_seconds{{{EXPORTER}"
    instances = 'label_values(ollama_probe_build_info{job=~"$job"}, instance)'
    gpus = f"label_values(ollama_probe_decode_tokens_per_second{{{MODEL}}}, gpu)"
    link = DashboardLink("Ollama throughput").type(DashboardLinkType.DASHBOARDS).tags([TAG]).icon("external link")
    return (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .time(start, "now")
        .refresh("1m")
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_build_variable("job", "Job", "label_values(ollama_probe_build_info, job)"))
        .with_variable(_build_variable("instance", "Instance", instances))
        .with_variable(_build_variable("target", "Target", f"label_values({models}}}, target)"))
        .with_variable(_build_variable("model", "Model", f'label_values({models},target=~"$target"}}, model)'))
        .with_variable(_build_variable("gpu", "GPU", gpus))
        .annotations(_build_annotations() if annotated else [])
        .link(link.include_vars(include_vars=True).keep_time(keep_time=True))
    )


def link_to_model(target: str, model: str) -> dict[str, Any]:
    """Return a data link to the dashboard of one model, with the same time range and data source."""
    url = f"/d/{MODEL_DASHBOARD_UID}?${{datasource:queryparam}}&${{job:queryparam}}"
    url += f"&var-target={target}&var-model={model}&${{__url_time_range}}"
    return {"title": "Open the dashboard of this model", "url": url, "targetBlank": False}


def format_model_columns(panel: table.Panel, *, model_width: int, target_width: int) -> None:
    """Format the columns model, target and GPU of a table: a model links to its dashboard, and `cpu` is red."""
    link = link_to_model("${__data.fields.Target}", "${__data.fields.Model}")
    format_column(panel, "model", "Model", links=[link], custom__width=model_width)
    format_column(panel, "target", "Target", custom__width=target_width)
    format_column(panel, "gpu", "GPU", mappings=[map_values({"cpu": ("cpu", BAD)})], custom__cellOptions=COLORED_TEXT)


def place_panels(dashboard: Dashboard, rows: Iterable[tuple[int, Sequence[tuple[int, Panel]]]]) -> Dashboard:
    """Add panels row by row. A row is its height and its panels, each with its width, in units of the grid."""
    top = 0
    for height, panels in rows:
        left = 0
        for width, panel in panels:
            dashboard.with_panel(panel.grid_pos(GridPos(x=left, y=top, w=width, h=height)))
            left += width
        top += height
    return dashboard


def _build_variable(name: str, label: str, query: str) -> QueryVariable:
    """Return a variable whose values come from a query. Several values can be selected, or all."""
    return (
        QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": query, "refId": "StandardVariableQuery", "qryType": 5})
        .definition(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".+")
    )


def _build_annotations() -> list[Builder[Annotation]]:
    """Return the events that can explain a step in a rate."""
    identity = "job, instance, target, model"
    version = detect_change("ollama_probe_server_info", TARGET, "job, instance, target", "version")
    digest = exclude_other_gpus(detect_change("ollama_probe_model_info", MODEL, identity, "digest"))
    workload = exclude_other_gpus(detect_change("ollama_probe_workload_info", MODEL, identity, "hash"))
    driver = detect_change("ollama_probe_gpu_info", EXPORTER, "job, instance, uuid", "driver_version")
    return [
        _build_annotation("Firing alerts", RED, FIRING_ALERTS, "{{alertname}}", f"{NAME} {{{{cause}}}}"),
        _build_annotation("Ollama version", VIOLET, version, "Ollama {{version}}", "{{target}}"),
        _build_annotation("Model digest", TEAL, digest, "Model {{digest}}", NAME),
        _build_annotation("GPU driver", ORANGE, driver, "Driver {{driver_version}}", "{{instance}}"),
        _build_annotation("Workload", MAGENTA, workload, "Workload {{hash}}", NAME),
    ]


def _build_annotation(name: str, color: str, expression: str, title: str, text: str) -> AnnotationQuery:
    """Return an annotation at each time at which a query has a result."""
    query = Dataquery().expr(expression).ref_id("Anno").interval("60s").datasource(SOURCE).range()
    annotation = AnnotationQuery().name(name).datasource(SOURCE).enable(enable=True).icon_color(color)
    return annotation.target(query).title_format(title).text_format(text)
