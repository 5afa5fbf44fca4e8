"""The checks of the dashboards find the problems that they are for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from support.dashboards.dashboard_files import DASHBOARDS, OVERVIEW, list_panels
from support.dashboards.lint import find_problems

Json = dict[str, Any]


def replace_query(panel: Json, expression: str) -> None:
    """Replace the expression of a panel's first query."""
    panel["targets"][0].update(expr=expression, refId="A")


def misspell_metric(panel: Json) -> None:
    """Misspell a metric in a panel's first query."""
    query = panel["targets"][0]
    query["expr"] = query["expr"].replace("decode_tokens_per", "decode_token_per")


def misspell_column_unit(dashboard: Json) -> None:
    """Misspell the unit of a table's column."""
    overrides = next(p for p in list_panels(dashboard) if p["type"] == "table")["fieldConfig"]["overrides"]
    next(p for o in overrides for p in o["properties"] if p["id"] == "unit")["value"] = "percnt"


def set_default(panel: Json, **values: Any) -> None:
    """Set field options of a panel."""
    panel["fieldConfig"]["defaults"].update(values)


PROBLEMS: dict[str, tuple[Callable[[Json, Json], Any], str]] = {
    "misspelt metric": (lambda _, p: misspell_metric(p), "unknown metric ollama_probe_decode_token_per_second"),
    "unknown unit": (lambda _, p: set_default(p, unit="tok/s"), "unknown unit tok/s"),
    "unknown unit of a column": (lambda d, _: misspell_column_unit(d), "unknown unit percnt"),
    "counter without rate": (
        lambda _, p: replace_query(p, 'ollama_probe_runs_total{job=~"$job"}'),
        "without increase or rate",
    ),
    "rate of a probe counter": (
        lambda _, p: replace_query(p, "rate(ollama_probe_runs_total[5m])"),
        "use increase over a long",
    ),
    "rate over a fixed window": (
        lambda _, p: replace_query(p, "rate(process_cpu_seconds_total[5m])"),
        "not over $__rate_interval",
    ),
    "selector without filter": (
        lambda _, p: replace_query(p, 'ollama_probe_success{job=~"$job"}'),
        'not filtered by target=~"$target"',
    ),
    "filter for one value": (
        lambda _, p: replace_query(p, 'up{job="$job",instance=~"$instance"}'),
        'not filtered by job=~"$job"',
    ),
    "invalid PromQL": (lambda _, p: replace_query(p, "sum by (model"), "query A: not valid PromQL"),
    "no queries": (lambda _, p: p.update(targets=[]), "no queries"),
    "overlapping panels": (lambda _, p: p["gridPos"].update(y=2), "overlaps"),
    "panel off the grid": (lambda _, p: p["gridPos"].update(x=20, y=900), "exceeds the width"),
    "unknown panel type": (lambda _, p: p.update(type="graf"), "unknown panel type graf"),
    "no description": (lambda _, p: p.update(description=""), "no description"),
    "no text for missing data": (
        lambda _, p: p["fieldConfig"]["defaults"].pop("noValue"),
        "no text for missing data",
    ),
    "fixed data source": (
        lambda _, p: p.update(datasource={"type": "prometheus", "uid": "abc"}),
        "data source variable",
    ),
    "id": (lambda d, _: d.update(id=7), "has an id"),
    "editable": (lambda d, _: d.update(editable=True), "editable"),
    "variable for one value": (lambda d, _: d["templating"]["list"][1].update(multi=False), "variable job"),
    "variable without label": (lambda d, _: d["templating"]["list"][1].update(label=""), "variable job has the label"),
    "variable not refreshed": (
        lambda d, _: d["templating"]["list"][2].update(refresh=1),
        "variable instance is not refreshed",
    ),
    "text for a number": (lambda _, p: p["gridPos"].update(h="9", y=900), "schema: panels"),
    "unknown option": (lambda _, p: p["options"].update(legned={}), "schema: : Additional properties"),
    "unknown draw style": (
        lambda _, p: p["fieldConfig"]["defaults"]["custom"].update(drawStyle="dots"),
        "schema: draw",
    ),
    "unknown threshold mode": (
        lambda _, p: set_default(p, thresholds={"mode": "abs", "steps": []}),
        "schema: panels",
    ),
    "unknown panel key": (lambda _, p: p.update(descriptoin="x"), "schema: panels"),
    "classic palette": (lambda _, p: set_default(p, color={"mode": "palette-classic"}), "palette"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_problem_is_found(problem: str) -> None:
    """A dashboard with this one problem is reported."""
    dashboard = copy.deepcopy(DASHBOARDS[OVERVIEW])
    charts = [panel for panel in list_panels(dashboard) if panel["type"] == "timeseries"]
    cause, message = PROBLEMS[problem]
    cause(dashboard, charts[1])
    found = find_problems(dashboard)
    assert any(message in line for line in found), found
