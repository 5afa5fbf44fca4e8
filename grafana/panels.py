"""What the boards are made of: colours, panel shapes, variables, annotations and the grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import queries as q
from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d

# Told apart with protanopia, deuteranopia and tritanopia (CIE76 distance 25 or more), on dark and on light.
VIOLET, ORANGE, TEAL, MAGENTA, RED = LINES = ("#6A51C7", "#D98200", "#12A37F", "#B35FA8", "#C8442C")
GREY = "#8E8E8E"
GOOD, WARN, BAD = TEAL, ORANGE, RED

SOURCE = c.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "ollama-throughput"
NOTHING = "Nothing in this time range: no probe has ended in it, or the filters above leave no pair"
NO_GPU = (
    "No reading of a GPU: the exporter does not run beside Ollama, this host has no NVIDIA card, or its driver fails"
)
NO_RULES = "No rules loaded: put deploy/prometheus/rules.yml into Prometheus' rule_files"

ALERTS = (
    'ALERTS{alertname=~"OllamaProbe.+",alertstate="firing",severity!="info",'
    'job=~"$job|",target=~"$target|",model=~"$model|"}'
)
"""An alert of an exporter or a target has no model, and is shown with all."""

Panel = Any
"""A builder of a panel; the SDK's have no type in common that can be laid out."""


def query(expr: str, legend: str = "", *, name: str = "A", instant: bool = False) -> prometheus.Dataquery:
    """Return a query; an instant one comes as a table's row."""
    target = prometheus.Dataquery().expr(expr).ref_id(name).legend_format(legend or "__auto").datasource(SOURCE)
    if instant:
        return target.instant().format(prometheus.prometheus.PromQueryFormat.TABLE)
    return target.range()


def thresholds(*steps: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Return absolute thresholds; the first step has no value."""
    made = [d.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(d.ThresholdsMode.ABSOLUTE).steps(made)


def fixed(color: str) -> dict[str, str]:
    """Return a field's colour as an override's value."""
    return {"mode": "fixed", "fixedColor": color}


def properties(**values: Any) -> list[d.DynamicConfigValue]:
    """Return an override's properties; `custom__width` stands for `custom.width`."""
    return [d.DynamicConfigValue(id_val=name.replace("__", "."), value=value) for name, value in values.items()]


def words(texts: dict[str, tuple[str, str]]) -> d.ValueMap:
    """Return a mapping from values to words and their colours."""
    results = {value: d.ValueMappingResult(text=said, color=color) for value, (said, color) in texts.items()}
    return d.ValueMap(options=results)


def lines(title: str, description: str, unit: str, *targets: prometheus.Dataquery) -> timeseries.Panel:
    """Return a chart of steps: a reading holds until the next one, and a withdrawn one leaves a gap."""
    return (
        timeseries.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(SOURCE)
        .targets(list(targets))
        .interval("1m")
        .no_value(NOTHING)
        .draw_style(c.GraphDrawStyle.LINE)
        .line_interpolation(c.LineInterpolation.STEP_AFTER)
        .line_width(2)
        .fill_opacity(0)
        .gradient_mode(c.GraphGradientMode.NONE)
        .show_points(c.VisibilityMode.NEVER)
        .span_nulls(span_nulls=False)
        .axis_soft_min(0)
        .color_scheme(dashboard.FieldColor().mode(d.FieldColorModeId.FIXED).fixed_color(VIOLET))
        .tooltip(common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI).sort(c.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .show_legend(show_legend=True)
            .display_mode(c.LegendDisplayMode.LIST)
            .placement(c.LegendPlacement.BOTTOM)
            .calcs([])
        )
    )


def shares(panel: timeseries.Panel, *levels: float) -> timeseries.Panel:
    """Colour each step of each line by how bad it is, whichever series it is; so there is no legend, but a tooltip."""
    panel.legend(common.VizLegendOptions().show_legend(show_legend=False).calcs([]))
    panel.color_scheme(dashboard.FieldColor().mode(d.FieldColorModeId.THRESHOLDS))
    colors = (BAD, WARN, GOOD)[-len(levels) - 1 :]
    panel.thresholds(thresholds(*zip((None, *levels), colors, strict=True)))
    return panel.gradient_mode(c.GraphGradientMode.SCHEME)


def paint(panel: Panel, colors: dict[str, str]) -> Panel:
    """Give series their colours by their names."""
    for name, color in colors.items():
        panel.override_by_name(name, properties(color=fixed(color)))
    return panel


def ranked_lines(title: str, description: str, by: str, over: str, legend_format: str) -> timeseries.Panel:
    """Return a chart of the largest rates in colours that everybody can tell apart, and of the others in grey."""
    names = [f"rank{n}" for n in range(1, len(LINES) + 1)]
    targets = [query(q.ranked(by, n, over), legend_format, name=name) for n, name in enumerate(names, 1)]
    others = query(q.unranked(by, len(LINES), over), legend_format, name="others")
    panel = lines(title, description, "none", *targets, others).axis_label("tokens/s")
    for name, color in zip(names, LINES, strict=True):
        panel.override_by_query(name, properties(color=fixed(color)))
    return panel.override_by_query("others", properties(color=fixed(GREY), custom__lineWidth=1))


def number(title: str, description: str, unit: str, expr: str, legend_format: str = "") -> stat.Panel:
    """Return a stat of the newest value."""
    target = prometheus.Dataquery().expr(expr).ref_id("A").legend_format(legend_format or "__auto").datasource(SOURCE)
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(SOURCE)
        .targets([target.instant()])
        .no_value("no reading")
        .graph_mode(c.BigValueGraphMode.NONE)
        .color_mode(c.BigValueColorMode.VALUE)
        .text_mode(c.BigValueTextMode.AUTO)
        .justify_mode(c.BigValueJustifyMode.AUTO)
        .orientation(c.VizOrientation.AUTO)
        .wide_layout(wide_layout=False)
        .color_scheme(dashboard.FieldColor().mode(d.FieldColorModeId.THRESHOLDS))
        .thresholds(thresholds((None, "text")))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False).fields(""))
    )


def bars(title: str, description: str, unit: str, expr: str, legend_format: str) -> bargauge.Panel:
    """Return horizontal bars, the longest first."""
    target = prometheus.Dataquery().expr(f"sort_desc({expr})").ref_id("A").legend_format(legend_format)
    return (
        bargauge.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(SOURCE)
        .targets([target.datasource(SOURCE).instant()])
        .no_value(NOTHING)
        .min(0)
        .display_mode(c.BarGaugeDisplayMode.BASIC)
        .orientation(c.VizOrientation.HORIZONTAL)
        .value_mode(c.BarGaugeValueMode.TEXT)
        .name_placement(c.BarGaugeNamePlacement.TOP)
        .sizing(c.BarGaugeSizing.MANUAL)
        .min_viz_height(16)
        .max_viz_height(38)
        .text(common.VizTextDisplayOptions().title_size(13).value_size(14))
        .show_unfilled(show_unfilled=True)
        .color_scheme(dashboard.FieldColor().mode(d.FieldColorModeId.FIXED).fixed_color(VIOLET))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False).fields(""))
    )


def rows(title: str, description: str, columns: Sequence[str], *targets: prometheus.Dataquery) -> table.Panel:
    """Return a table that merges its queries' rows by the labels they share; `columns` are the fields, in order."""
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .unit("none")
        .datasource(SOURCE)
        .targets(list(targets))
        .no_value(NOTHING)
        .thresholds(thresholds((None, "text")))
        .show_header(show_header=True)
        .cell_height(c.TableCellHeight.SM)
        .min_width(70)
        .filterable(filterable=False)
        .with_transformation(d.DataTransformerConfig(id_val="merge", options={}))
    )
    panel.build().options.footer = None  # an option that Grafana 12 took away
    order = {name: index for index, name in enumerate(columns)}
    include = dict.fromkeys(columns, True)
    options = {"indexByName": order, "includeByName": include, "excludeByName": {}, "renameByName": {}}
    return panel.with_transformation(d.DataTransformerConfig(id_val="organize", options=options))


def column(panel: table.Panel, name: str, title: str, **values: Any) -> table.Panel:
    """Name a table's column and give it properties; an empty cell is a dash."""
    return panel.override_by_name(name, properties(displayName=title, noValue="-", **values))


def to_model_board(target_label: str, model_label: str) -> dict[str, Any]:
    """Return the link that opens the board of one model, at the same time range and data source."""
    url = f"/d/{TAG}?${{datasource:queryparam}}&${{job:queryparam}}&var-target={target_label}&var-model={model_label}"
    return {"title": "What happened to this one?", "url": f"{url}&${{__url_time_range}}", "targetBlank": False}


def variable(name: str, label: str, source: str) -> dashboard.QueryVariable:
    """Return a variable whose values are a label's, several at once or all."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": source, "refId": "StandardVariableQuery", "qryType": 5})
        .definition(source)
        .refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(d.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".+")
    )


def annotation(name: str, color: str, expr: str, title: str, text_format: str) -> dashboard.AnnotationQuery:
    """Return marks at the times at which a query has a result."""
    mark = dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(enable=True).icon_color(color)
    target = prometheus.Dataquery().expr(expr).ref_id("Anno").interval("60s").datasource(SOURCE).range()
    return mark.target(target).title_format(title).text_format(text_format)


def annotations() -> list[dashboard.AnnotationQuery]:
    """Return the marks that may explain a step in a rate."""
    pair = "job, instance, target, model"
    version = q.changed("ollama_probe_server_info", q.TARGET, "job, instance, target", "version")
    digest = q.of_gpu(q.changed("ollama_probe_model_info", q.PAIR, pair, "digest"))
    workload = q.of_gpu(q.changed("ollama_probe_workload_info", q.PAIR, pair, "hash"))
    driver = q.changed("ollama_probe_gpu_info", q.EXPORTER, "job, instance, uuid", "driver_version")
    where = "{{model}} on {{target}}"
    return [
        annotation("Firing alerts", RED, ALERTS, "{{alertname}}", f"{where} {{{{cause}}}}"),
        annotation("Ollama version", VIOLET, version, "Ollama {{version}}", "{{target}}"),
        annotation("Model digest", TEAL, digest, "Model {{digest}}", where),
        annotation("GPU driver", ORANGE, driver, "Driver {{driver_version}}", "{{instance}}"),
        annotation("Workload", MAGENTA, workload, "Workload {{hash}}", where),
    ]


def board(uid: str, title: str, description: str, since: str, *, marks: bool = True) -> dashboard.Dashboard:
    """Return an empty board with the variables, marks and links that all of them have."""
    pairs = f"ollama_probe_interval_seconds{{{q.EXPORTER}}}"
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .time(since, "now")
        .refresh("1m")
        .readonly()
        .tooltip(d.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(variable("job", "Job", "label_values(ollama_probe_build_info, job)"))
        .with_variable(variable("instance", "Instance", 'label_values(ollama_probe_build_info{job=~"$job"}, instance)'))
        .with_variable(variable("target", "Target", f"label_values({pairs}, target)"))
        .with_variable(variable("model", "Model", f'label_values({pairs[:-1]},target=~"$target"}}, model)'))
        .with_variable(variable("gpu", "GPU", f"label_values(ollama_probe_decode_tokens_per_second{{{q.PAIR}}}, gpu)"))
        .annotations(annotations() if marks else [])
    )
    link = dashboard.DashboardLink("Boards").type(d.DashboardLinkType.DASHBOARDS).tags([TAG]).icon("external link")
    return made.link(link.include_vars(include_vars=True).keep_time(keep_time=True))


def lay(made: dashboard.Dashboard, grid: Iterable[tuple[int, Sequence[tuple[int, Panel]]]], top: int = 0) -> int:
    """Place panels row by row, each row a height and its panels with their widths; return the row below the last."""
    for height, places in grid:
        left = 0
        for width, panel in places:
            made.with_panel(panel.grid_pos(d.GridPos(x=left, y=top, w=width, h=height)))
            left += width
        top += height
    return top
