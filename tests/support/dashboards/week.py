"""A Prometheus that holds the simulated week, queried as Grafana does."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from support import programs
from support.dashboards.lint import VARIABLES, expand
from support.dashboards.simulated_fleet import DAY

STEP = 900
ALL = dict.fromkeys(VARIABLES, ".+")
ON_CPU = ALL | {"target": "gpu-a", "model": "llama3.1"}
HEALTHY = ALL | {"target": "gpu-b", "model": "llama3.1"}
TRUNCATED = ALL | {"target": "gpu-a", "model": "qwen3:14b"}
"""Selections of the variables: everything, and one model each."""
Rows = list[tuple[dict[str, str], list[float]]]
"""Series or table rows, as (labels, values)."""


@dataclass(frozen=True)
class Week:
    """A Prometheus that holds a week in which one model moved to the CPU six hours before the end."""

    prometheus: programs.Prometheus
    end: float
    before_rules: dict[tuple[str, str], Rows]
    """The results of the overview's queries before the rules were evaluated, by (panel title, refId)."""

    results: dict[str, Rows] = field(default_factory=dict)

    def query(self, query: dict[str, Any], variables: dict[str, str] = ALL) -> Rows:
        """Return the result of a panel's query. Results are cached."""
        key = json.dumps([query["expr"], query.get("instant"), variables])
        if key not in self.results:
            self.results[key] = run_query(self.prometheus, query, variables, self.end)
        return self.results[key]


def run_query(prometheus: programs.Prometheus, query: dict[str, Any], variables: dict[str, str], end: float) -> Rows:
    """Return the result of a query over the week before `end`, or at `end` if the query is instant."""
    expression = expand(query["expr"], variables, step=STEP)
    assert not re.search(r"\$[a-zA-Z_{]", expression), f"unknown variable in {expression}"
    if query.get("instant"):
        return [(labels, [value]) for labels, value in prometheus.query(expression, time=end)]
    data = prometheus.get("query_range", query=expression, start=end - 7 * DAY, end=end, step=STEP)
    return [(series["metric"], [float(value) for _, value in series["values"]]) for series in data["result"]]


def index_by_model(rows: Rows) -> dict[tuple[str, str], float]:
    """Return the last value of each row by (target, model)."""
    return {(labels["target"], labels["model"]): values[-1] for labels, values in rows}
