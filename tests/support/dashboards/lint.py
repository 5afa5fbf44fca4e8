"""What is asked of every dashboard, told as findings: grafana/dashboard-linter's rules, and ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import yaml
from jsonschema import Draft7Validator

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
UNITS = frozenset((HERE / "units.txt").read_text().split())
SCHEMAS: dict[str, Any] = json.loads((HERE / "schemas.json").read_text())
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
OF_PROMETHEUS = {"up": {"job", "instance"}, "ALERTS": {"job", "target", "model"}}
"""What Prometheus itself writes, with the variables' labels that it has."""
VARIABLES = ("job", "instance", "target", "model", "gpu")
LABELS = {"datasource": "Data source", "job": "Job", "instance": "Instance"}
COLUMNS = 24
PARTS = ("_bucket", "_count", "_sum")


@cache
def metrics() -> dict[str, set[str]]:
    """Return every metric that a board may name, with its labels: of the golden exposition, the rules, Prometheus.

    The rules' records are of a pair, whichever exporter measured it: they alone have no instance to be filtered by,
    which dashboard-linter would ask of them too.
    """
    known: dict[str, set[str]] = {}
    for line in (ROOT / "tests/golden/metrics.txt").read_text().splitlines():
        if match := re.match(r"([a-z_]+)(?:\{(.*)\})? ", line):
            known.setdefault(match[1], {"job", "instance"}).update(re.findall(r'([a-z_]+)="', match[2] or ""))
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes"):
        known.setdefault(name, {"job", "instance"})
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"] if "record" in rule):
        known.setdefault(rule["record"], {"job", "target", "model"})
    known["ollama_probe_gpu_info"].remove("gpu")  # a card's name, which is not that of two cards together
    return known | OF_PROMETHEUS


@cache
def counters() -> frozenset[str]:
    """Return the names of what only grows: counters, and the sums and counts of histograms."""
    golden = (ROOT / "tests/golden/metrics.txt").read_text()
    plain = re.findall(r"^# TYPE (\S+) counter$", golden, re.MULTILINE)
    parts = [name + part for name in re.findall(r"^# TYPE (\S+) histogram$", golden, re.MULTILINE) for part in PARTS]
    return frozenset(["process_cpu_seconds_total", *plain, *parts])


def expand(expression: str, values: dict[str, str], *, span: float = 604800, step: float = 900) -> str:
    """Return a query as Grafana sends it, its variables and macros filled in. An unknown one stays, to be found."""
    macros = {
        "__range": f"{span:.0f}s",
        "__range_s": f"{span:.0f}",
        "__rate_interval": f"{max(4 * 900, step + 900):.0f}s",
    }
    known = macros | {"__interval": f"{step:.0f}s"} | values
    return re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda m: known.get(m[1] or m[2], m[0]), expression)


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a board's panels, those of its rows included."""
    for panel in board["panels"]:
        if panel.get("type") == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def findings(board: dict[str, Any]) -> list[str]:
    """Return what is wrong with a board, each with the place where it is."""
    found = [f"board: {problem}" for problem in _board(board)]
    for panel in panels(board):
        found += [f"{panel.get('title')}: {problem}" for problem in _panel(panel)]
        for target in panel.get("targets", []):
            where = f"{panel.get('title')}, query {target.get('refId')}"
            found += [f"{where}: {problem}" for problem in _query(target.get("expr", ""))]
    for mark in board["annotations"].get("list", []):
        found += [f"annotation {mark['name']}: {problem}" for problem in _query(mark["target"].get("expr", ""))]
    return found


def _board(board: dict[str, Any]) -> Iterator[str]:
    yield from _schema("dashboard", board)
    if board.get("id") is not None or any("id" in panel for panel in panels(board)):
        yield "has an id, which is the server's to give"
    if board.get("editable") is not False:
        yield "is editable, but its source is not here"
    yield from _variables(board["templating"]["list"])
    for one, other in combinations(panels(board), 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        if not (apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]):
            yield f"{one.get('title')} overlaps {other.get('title')}"
    if any(panel["gridPos"]["x"] + panel["gridPos"]["w"] > COLUMNS for panel in panels(board)):
        yield "a panel is wider than the board"


def _variables(listed: list[dict[str, Any]]) -> Iterator[str]:
    variables = {variable["name"]: variable for variable in listed}
    if list(variables) != ["datasource", *VARIABLES]:
        yield f"variables are {list(variables)}"
    for name, variable in variables.items():
        if name in LABELS and variable.get("label") != LABELS[name]:
            yield f"variable {name} is labelled {variable.get('label')}"
        if name == "datasource":
            if (variable["type"], variable["query"]) != ("datasource", "prometheus"):
                yield "the data source variable is not of Prometheus"
        elif not (variable.get("multi") and variable.get("includeAll") and variable.get("allValue") == ".+"):
            yield f"variable {name} does not take several values and all"
        elif variable.get("refresh") != 2 or variable.get("datasource") != SOURCE:
            yield f"variable {name} does not follow the time range on the chosen data source"


def _panel(panel: dict[str, Any]) -> Iterator[str]:
    kind = panel.get("type")
    if f"{kind}.options" not in SCHEMAS:
        yield f"unknown panel type {kind}"
        return
    yield from _schema(f"{kind}.options", panel.get("options", {}))
    defaults = panel["fieldConfig"]["defaults"]
    yield from _schema(f"{kind}.custom", defaults.get("custom", {}))
    yield from (f"no {key}" for key in ("title", "description") if not panel.get(key))
    if not defaults.get("noValue"):
        yield "says nothing where there is no data"
    if panel.get("datasource") != SOURCE or any(
        target.get("datasource") != SOURCE for target in panel.get("targets", [])
    ):
        yield "does not use the data source variable"
    set_by_overrides = [p for override in panel["fieldConfig"]["overrides"] for p in override["properties"]]
    for unit in [defaults.get("unit"), *(p["value"] for p in set_by_overrides if p["id"] == "unit")]:
        if unit not in UNITS:
            yield f"unknown unit {unit}"
    if not panel.get("targets"):
        yield "no queries"
    if defaults.get("color", {}).get("mode", "").startswith("palette"):
        yield "takes colours from a palette that not everybody can tell apart"


def _query(expression: str) -> Iterator[str]:
    try:
        tree = promql_parser.parse(expand(expression, {}))
    except ValueError as error:
        yield f"{error}"
        return
    nodes: list[Any] = []

    def visit(node: Any) -> bool:
        nodes.append(node)
        return True

    promql_parser.walk(tree, visit)
    calls = [node for node in nodes if type(node).__name__ == "Call"]
    counted = {str(argument.vector_selector): call.func.name for call in calls for argument in _ranges(call)}
    for node in nodes:
        if type(node).__name__ == "VectorSelector":
            yield from _selector(node)
            if node.name in counters() and counted.get(str(node)) not in {"increase", "rate"}:
                yield f"{node.name} is a counter without increase or rate"
    probes = re.findall(r"rate\(ollama_probe_\w+", expression)
    yield from (
        f"{probe}...: probe counters step once per interval: use increase over a long window" for probe in probes
    )
    for window in re.findall(r"\brate\([^\[]*\[([^\]]+)\]", expression):
        if window != "$__rate_interval":
            yield f"rate over {window}, not over $__rate_interval"


def _ranges(call: Any) -> list[Any]:
    return [argument for argument in call.args if type(argument).__name__ == "MatrixSelector"]


def _selector(selector: Any) -> Iterator[str]:
    labels = metrics().get(selector.name)
    if labels is None:
        yield f"unknown metric {selector.name}"
        return
    matchers = {(matcher.name, str(matcher.op), matcher.value) for matcher in selector.matchers.matchers}
    for label in VARIABLES:
        wanted = {
            (label, "MatchOp.Re", f"${label}"),
            (label, "MatchOp.Re", f"${label}|"),
            (label, "MatchOp.NotRe", f"${label}"),
        }
        if label in labels and not wanted & matchers:
            yield f'{selector.name} is not filtered by {label}=~"${label}"'


@cache
def _validator(name: str) -> Draft7Validator:
    schema = json.loads(json.dumps(SCHEMAS[name]))
    if name == "dashboard":
        _allow(schema)
    else:
        _optional(schema)
    return Draft7Validator(schema)


def _allow(schema: dict[str, Any]) -> None:
    """Let in what Grafana reads but does not publish: what each data source adds to a query and to an annotation."""
    for name, more in {
        "VariableModel": ("definition", "auto", "auto_min", "auto_count"),
        "AnnotationQuery": ("titleFormat", "textFormat"),
    }.items():
        schema["definitions"][name]["properties"].update({key: {} for key in more})
    schema["definitions"]["AnnotationQuery"]["properties"]["target"] = {"type": "object"}


def _optional(schema: Any) -> None:
    """Grafana fills in the options that a panel leaves out."""
    if isinstance(schema, dict):
        if isinstance(schema.get("required"), list):
            del schema["required"]
        for value in schema.values():
            _optional(value)
    elif isinstance(schema, list):
        for value in schema:
            _optional(value)


def _schema(name: str, document: Any) -> Iterator[str]:
    for error in _validator(name).iter_errors(document):
        nested = min((e.message for e in error.context or []), key=len, default="")
        yield f"schema: {'/'.join(map(str, error.absolute_path))}: {nested or error.message[:200]}"
