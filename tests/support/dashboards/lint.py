"""Checks of a dashboard: the rules of grafana/dashboard-linter, and rules for this project's metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import promql_parser
from support.dashboards.dashboard_files import list_panels
from support.dashboards.metric_names import list_counters, list_metrics
from support.dashboards.schema import SCHEMAS, UNITS, validate

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
VARIABLES = ("job", "instance", "target", "model", "gpu")
LABELS = {"datasource": "Data source", "job": "Job", "instance": "Instance"}
COLUMNS = 24


def expand(expression: str, values: dict[str, str], *, span: float = 604800, step: float = 900) -> str:
    """Return a query as Grafana sends it, with variables and macros replaced. An unknown variable is left in place."""
    macros = {
        "__range": f"{span:.0f}s",
        "__range_s": f"{span:.0f}",
        "__rate_interval": f"{max(4 * 900, step + 900):.0f}s",
    }
    known = macros | {"__interval": f"{step:.0f}s"} | values
    return re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda m: known.get(m[1] or m[2], m[0]), expression)


def find_problems(dashboard: dict[str, Any]) -> list[str]:
    """Return the problems of a dashboard, each as `LOCATION: PROBLEM`."""
    problems = [f"dashboard: {problem}" for problem in _check_dashboard(dashboard)]
    for panel in list_panels(dashboard):
        problems += [f"{panel.get('title')}: {problem}" for problem in _check_panel(panel)]
        for target in panel.get("targets", []):
            location = f"{panel.get('title')}, query {target.get('refId')}"
            problems += [f"{location}: {problem}" for problem in _check_query(target.get("expr", ""))]
    for annotation in dashboard["annotations"].get("list", []):
        location = f"annotation {annotation['name']}"
        problems += [f"{location}: {problem}" for problem in _check_query(annotation["target"].get("expr", ""))]
    return problems


def _check_dashboard(dashboard: dict[str, Any]) -> Iterator[str]:
    yield from validate("dashboard", dashboard)
    if dashboard.get("id") is not None or any("id" in panel for panel in list_panels(dashboard)):
        yield "has an id, which Grafana must assign"
    if dashboard.get("editable") is not False:
        yield "is editable, although it is generated"
    yield from _check_variables(dashboard["templating"]["list"])
    for one, other in combinations(list_panels(dashboard), 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        if not (apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]):
            yield f"{one.get('title')} overlaps {other.get('title')}"
    if any(panel["gridPos"]["x"] + panel["gridPos"]["w"] > COLUMNS for panel in list_panels(dashboard)):
        yield "a panel exceeds the width of the grid"


def _check_variables(listed: list[dict[str, Any]]) -> Iterator[str]:
    variables = {variable["name"]: variable for variable in listed}
    if list(variables) != ["datasource", *VARIABLES]:
        yield f"variables are {list(variables)}"
    for name, variable in variables.items():
        if name in LABELS and variable.get("label") != LABELS[name]:
            yield f"variable {name} has the label {variable.get('label')}"
        if name == "datasource":
            if (variable["type"], variable["query"]) != ("datasource", "prometheus"):
                yield "the data source variable is not for Prometheus"
        elif not (variable.get("multi") and variable.get("includeAll") and variable.get("allValue") == ".+"):
            yield f"variable {name} does not allow several values and all"
        elif variable.get("refresh") != 2 or variable.get("datasource") != SOURCE:
            yield f"variable {name} is not refreshed with the time range from the selected data source"


def _check_panel(panel: dict[str, Any]) -> Iterator[str]:
    kind = panel.get("type")
    if f"{kind}.options" not in SCHEMAS:
        yield f"unknown panel type {kind}"
        return
    yield from validate(f"{kind}.options", panel.get("options", {}))
    defaults = panel["fieldConfig"]["defaults"]
    yield from validate(f"{kind}.custom", defaults.get("custom", {}))
    yield from (f"no {key}" for key in ("title", "description") if not panel.get(key))
    if not defaults.get("noValue"):
        yield "no text for missing data"
    sources = [panel.get("datasource"), *(target.get("datasource") for target in panel.get("targets", []))]
    if any(source != SOURCE for source in sources):
        yield "does not use the data source variable"
    overrides = [p for override in panel["fieldConfig"]["overrides"] for p in override["properties"]]
    for unit in [defaults.get("unit"), *(p["value"] for p in overrides if p["id"] == "unit")]:
        if unit not in UNITS:
            yield f"unknown unit {unit}"
    if not panel.get("targets"):
        yield "no queries"
    if defaults.get("color", {}).get("mode", "").startswith("palette"):
        yield "uses a palette with colours that are not distinct for everyone"


def _check_query(expression: str) -> Iterator[str]:
    try:
        tree = promql_parser.parse(expand(expression, {}))
    except ValueError as error:
        yield f"not valid PromQL: {error}"
        return
    nodes: list[Any] = []

    def visit(node: Any) -> bool:
        nodes.append(node)
        return True

    promql_parser.walk(tree, visit)
    calls = [node for node in nodes if type(node).__name__ == "Call"]
    functions = {
        str(argument.vector_selector): call.func.name
        for call in calls
        for argument in call.args
        if type(argument).__name__ == "MatrixSelector"
    }
    for node in nodes:
        if type(node).__name__ == "VectorSelector":
            yield from _check_selector(node)
            if node.name in list_counters() and functions.get(str(node)) not in {"increase", "rate"}:
                yield f"{node.name} is a counter without increase or rate"
    for rate in re.findall(r"rate\(ollama_probe_\w+", expression):
        yield f"{rate}...: probe counters change once per interval, use increase over a long window"
    for window in re.findall(r"\brate\([^\[]*\[([^\]]+)\]", expression):
        if window != "$__rate_interval":
            yield f"rate over {window}, not over $__rate_interval"


def _check_selector(selector: Any) -> Iterator[str]:
    labels = list_metrics().get(selector.name)
    if labels is None:
        yield f"unknown metric {selector.name}"
        return
    matchers = {(matcher.name, str(matcher.op), matcher.value) for matcher in selector.matchers.matchers}
    for label in VARIABLES:
        accepted = {
            (label, "MatchOp.Re", f"${label}"),
            (label, "MatchOp.Re", f"${label}|"),
            (label, "MatchOp.NotRe", f"${label}"),
        }
        if label in labels and not accepted & matchers:
            yield f'{selector.name} is not filtered by {label}=~"${label}"'
