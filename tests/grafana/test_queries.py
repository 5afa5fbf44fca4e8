"""Every query of every dashboard returns data from a real Prometheus that holds the simulated week."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from support.dashboards.dashboard_files import DASHBOARDS, MODEL, list_panels, list_queries
from support.dashboards.history import JOB
from support.dashboards.lint import expand
from support.dashboards.simulated_fleet import FLEET
from support.dashboards.week import ALL, HEALTHY, ON_CPU, TRUNCATED, Week

from exporter.reading import ThrottleReason

NOT_IN_THE_WEEK = {*ThrottleReason, "truncated"}
"""Names of series that the week, or the model that is queried, need not have."""


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_every_query_has_data(week: Week, uid: str) -> None:
    """Each query returns a number, for all models or for one; ranks beyond the number of series are empty."""
    selections = [ALL, ON_CPU, HEALTHY, TRUNCATED] if uid == MODEL else [ALL]
    empty = []
    for panel, query in list_queries(DASHBOARDS[uid]):
        if re.fullmatch(r"rank[2-9]|others", query["refId"]):
            continue
        values = (value for selection in selections for _, row in week.query(query, selection) for value in row)
        if all(math.isnan(value) for value in values):
            empty.append(f"{panel['title']}, {query['refId']}: no data for {query['expr']}")
    assert empty == []


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_every_name_exists(week: Week, uid: str) -> None:
    """The labels in legends, and the fields that overrides and column orders name, are in the results."""
    missing = []
    for panel in list_panels(DASHBOARDS[uid]):
        fields: set[str] = set()
        for query in panel["targets"]:
            rows = week.query(query) or week.query(query, HEALTHY)
            legend = query.get("legendFormat", "")
            wanted = set(re.findall(r"\{\{(\w+)\}\}", legend))
            missing += [f"{panel['title']}: {{{{{name}}}}}" for labels, _ in rows for name in wanted - set(labels)]
            fields |= {format_legend(legend, labels) for labels, _ in rows}
            fields |= {name for labels, _ in rows for name in labels} | {f"Value #{query['refId']}"}
        transformations = panel.get("transformations", [])
        if panel["type"] == "table":
            fields |= {"Value"}
        if any(transformation["id"] == "groupingToMatrix" for transformation in transformations):
            fields |= {"model\\gpu"}
        overrides = panel["fieldConfig"]["overrides"]
        named = {o["matcher"]["options"] for o in overrides if o["matcher"]["id"] == "byName"}
        named |= {name for t in transformations for name in t["options"].get("indexByName", {})}
        missing += [f"{panel['title']}: {name}" for name in named - fields - NOT_IN_THE_WEEK]
    assert missing == []


def format_legend(legend: str, labels: dict[str, str]) -> str:
    """Return a legend with its labels filled in; a missing label is left in place."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], match[0]), legend)


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_variables_have_values(week: Week, uid: str) -> None:
    """The query of each variable returns the values of the week."""
    values: dict[str, Any] = {}
    for variable in DASHBOARDS[uid]["templating"]["list"][1:]:
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert match, variable["query"]
        selector, label = match.groups()
        values[variable["name"]] = week.prometheus.get(f"label/{label}/values", **{"match[]": expand(selector, ALL)})
    assert values == {
        "job": [JOB],
        "instance": sorted({f"{model.target}:10434" for model in FLEET}),
        "target": sorted({model.target for model in FLEET}),
        "model": sorted({model.name for model in FLEET}),
        "gpu": sorted({model.gpu for model in FLEET} | {"cpu"}),
    }


def test_annotations_mark_changes_and_alerts(week: Week) -> None:
    """Each change of the week is marked once; a series that disappears and returns unchanged is not."""
    marked = {}
    for annotation in DASHBOARDS[MODEL]["annotations"]["list"]:
        match = re.fullmatch(r"\D*\{\{(\w+)\}\}", annotation["titleFormat"])
        assert match, annotation["titleFormat"]
        rows = week.query(annotation["target"] | {"instant": False})
        marked[annotation["name"]] = {labels[match[1]] for labels, _ in rows}
    assert "OllamaProbeThroughputDropped" in marked.pop("Firing alerts")
    assert len(marked.pop("Workload")) == 1
    assert marked == {"Ollama version": {"0.13.0"}, "Model digest": {"bdbd181c33f2"}, "GPU driver": {"570.86.10"}}
