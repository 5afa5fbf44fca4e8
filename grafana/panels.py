"""Panels with the options that all dashboards share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from colors import BAD, GOOD, GREY, LINE_COLORS, VIOLET, WARNING
from fields import COLOR_BY_THRESHOLDS, build_thresholds, fix_color, list_properties, use_one_color
from grafana_foundation_sdk.builders import bargauge, stat, table, timeseries
from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    VizLegendOptions,
    VizTextDisplayOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import DataTransformerConfig
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.table import Options as TableOptions
from queries import select_below_rank, select_rank

Panel = bargauge.Panel | stat.Panel | table.Panel | timeseries.Panel

SOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
NO_DATA = "No data: no probe ended in this time range, or no model matches the filters above"
NO_GPU_DATA = (
    "No GPU data: the exporter does not run on the Ollama host, the host has no NVIDIA GPU, or its driver does not "
    "respond"
)
NO_RULES = "No recorded data: add deploy/prometheus/rules.yml to rule_files in the Prometheus configuration"
"""What an empty panel shows."""


def build_query(expression: str, legend: str = "", *, ref_id: str = "A") -> Dataquery:
    """Return a range query."""
    return Dataquery().expr(expression).ref_id(ref_id).legend_format(legend or "__auto").datasource(SOURCE).range()


def build_instant_query(expression: str, legend: str = "", *, ref_id: str = "A") -> Dataquery:
    """Return an instant query."""
    return Dataquery().expr(expression).ref_id(ref_id).legend_format(legend or "__auto").datasource(SOURCE).instant()


def build_table_query(expression: str, *, ref_id: str = "A") -> Dataquery:
    """Return an instant query whose series are the rows of a table."""
    return build_instant_query(expression, ref_id=ref_id).format(PromQueryFormat.TABLE)


def build_line_chart(title: str, description: str, unit: str, *queries: Dataquery) -> timeseries.Panel:
    """Return a time series chart of steps: a reading is valid until the next one, a withdrawn reading leaves a gap."""
    return (
        timeseries.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(SOURCE)
        .targets(list(queries))
        .interval("1m")
        .no_value(NO_DATA)
        .draw_style(common.GraphDrawStyle.LINE)
        .line_interpolation(common.LineInterpolation.STEP_AFTER)
        .line_width(2)
        .fill_opacity(0)
        .gradient_mode(common.GraphGradientMode.NONE)
        .show_points(common.VisibilityMode.NEVER)
        .span_nulls(span_nulls=False)
        .axis_soft_min(0)
        .color_scheme(use_one_color(VIOLET))
        .tooltip(VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
        .legend(
            VizLegendOptions()
            .show_legend(show_legend=True)
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .calcs([])
        )
    )


def build_ranked_line_chart(title: str, description: str, by: str, expression: str, legend: str) -> timeseries.Panel:
    """Return a chart of rates in tokens/s: the largest in distinct colours, all others in grey."""
    ranks = {f"rank{number}": color for number, color in enumerate(LINE_COLORS, 1)}
    queries = [
        build_query(select_rank(by, number, expression), legend, ref_id=ref_id)
        for number, ref_id in enumerate(ranks, 1)
    ]
    others = build_query(select_below_rank(by, len(ranks), expression), legend, ref_id="others")
    chart = build_line_chart(title, description, "none", *queries, others).axis_label("tokens/s")
    for ref_id, color in ranks.items():
        chart.override_by_query(ref_id, list_properties(color=fix_color(color)))
    return chart.override_by_query("others", list_properties(color=fix_color(GREY), custom__lineWidth=1))


def color_lines_by_level(chart: timeseries.Panel, *levels: float) -> timeseries.Panel:
    """Colour each step of each line as bad, warning or good by its value. All series look alike, so hide the legend."""
    chart.legend(VizLegendOptions().show_legend(show_legend=False).calcs([]))
    chart.color_scheme(COLOR_BY_THRESHOLDS)
    colors = (BAD, WARNING, GOOD)[-len(levels) - 1 :]
    chart.thresholds(build_thresholds(*zip((None, *levels), colors, strict=True)))
    return chart.gradient_mode(common.GraphGradientMode.SCHEME)


def color_lines_by_name(chart: timeseries.Panel, colors: Mapping[str, str]) -> timeseries.Panel:
    """Give each series the colour of its name."""
    for name, color in colors.items():
        chart.override_by_name(name, list_properties(color=fix_color(color)))
    return chart


def build_stat(title: str, description: str, unit: str, expression: str, legend: str = "") -> stat.Panel:
    """Return a stat panel of the last value."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(SOURCE)
        .targets([build_instant_query(expression, legend)])
        .no_value("no reading")
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.VALUE)
        .text_mode(common.BigValueTextMode.AUTO)
        .justify_mode(common.BigValueJustifyMode.AUTO)
        .orientation(common.VizOrientation.AUTO)
        .wide_layout(wide_layout=False)
        .color_scheme(COLOR_BY_THRESHOLDS)
        .thresholds(build_thresholds((None, "text")))
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(values=False).fields(""))
    )


def build_bars(title: str, description: str, unit: str, expression: str, legend: str) -> bargauge.Panel:
    """Return horizontal bars, the longest first."""
    return (
        bargauge.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(SOURCE)
        .targets([build_instant_query(f"sort_desc({expression})", legend)])
        .no_value(NO_DATA)
        .min(0)
        .display_mode(common.BarGaugeDisplayMode.BASIC)
        .orientation(common.VizOrientation.HORIZONTAL)
        .value_mode(common.BarGaugeValueMode.TEXT)
        .name_placement(common.BarGaugeNamePlacement.TOP)
        .sizing(common.BarGaugeSizing.MANUAL)
        .min_viz_height(16)
        .max_viz_height(38)
        .text(VizTextDisplayOptions().title_size(13).value_size(14))
        .show_unfilled(show_unfilled=True)
        .color_scheme(use_one_color(VIOLET))
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(values=False).fields(""))
    )


def build_table(title: str, description: str, columns: Sequence[str], *queries: Dataquery) -> table.Panel:
    """Return a table whose rows are merged by the labels that the queries share. `columns` are the fields, in order."""
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .unit("none")
        .datasource(SOURCE)
        .targets(list(queries))
        .no_value(NO_DATA)
        .thresholds(build_thresholds((None, "text")))
        .show_header(show_header=True)
        .cell_height(common.TableCellHeight.SM)
        .min_width(70)
        .filterable(filterable=False)
        .with_transformation(DataTransformerConfig(id_val="merge", options={}))
    )
    cast(TableOptions, panel.build().options).footer = None  # Grafana 12 removed this option
    order = {name: index for index, name in enumerate(columns)}
    include = dict.fromkeys(columns, True)
    options = {"indexByName": order, "includeByName": include, "excludeByName": {}, "renameByName": {}}
    return panel.with_transformation(DataTransformerConfig(id_val="organize", options=options))


def format_column(panel: table.Panel, name: str, title: str, **values: Any) -> table.Panel:
    """Set the title and the properties of a table's column; an empty cell shows a dash."""
    return panel.override_by_name(name, list_properties(displayName=title, noValue="-", **values))
