"""Evaluate the shipped rules over a history, and write their results into Prometheus."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from support import programs
from support.dashboards.remote_write import STALE, Series, remote_write

RULES = Path(__file__).parents[3] / "deploy/prometheus/rules.yml"
INTERVAL_SECONDS = {"1m": 60, "5m": 300}


def evaluate_rules(prometheus: programs.Prometheus, *, begin: float, end: float) -> None:
    """Write the recorded series and the firing alerts of the shipped rules for the times from `begin` to `end`.

    Each rule is one range query, evaluated after the rules that it reads. A rule that reads its own earlier results
    does not see them, and `for` is ignored: both need a rule manager, whose clock cannot be set.
    """
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = [rule | {"step": INTERVAL_SECONDS[group["interval"]]} for group in groups for rule in group["rules"]]
    records = {rule["record"] for rule in rules if "record" in rule}
    known: set[str] = set()
    while rules:
        ready = [rule for rule in rules if find_records(rule["expr"]) & records - {rule.get("record")} <= known]
        rules = [rule for rule in rules if rule not in ready]
        # A name that several rules record is known only after the last of them.
        known |= {rule["record"] for rule in ready if "record" in rule} - {rule.get("record") for rule in rules}
        for rule in ready:
            remote_write(prometheus, list(evaluate_rule(prometheus, rule, begin, end)))


def find_records(expression: str) -> set[str]:
    """Return the names of recorded series that an expression reads."""
    return set(re.findall(r"ollama_probe(?::\w+)+", expression))


def evaluate_rule(prometheus: programs.Prometheus, rule: dict[str, Any], begin: float, end: float) -> Iterator[Series]:
    """Yield a rule's results at its group's interval, with a stale marker at the end of each run of samples."""
    step = rule["step"]
    answer = prometheus.get("query_range", query=rule["expr"], start=begin, end=end, step=step)
    alert = {"alertname": rule["alert"], "alertstate": "firing"} if "alert" in rule else {}
    for series in answer["result"]:
        labels = series["metric"] | {"__name__": rule.get("record", "ALERTS")} | rule.get("labels", {}) | alert
        samples: list[tuple[float, float]] = []
        for at, value in series["values"]:
            if samples and at - samples[-1][0] > step:
                samples.append((samples[-1][0] + step, STALE))
            samples.append((at, 1.0 if alert else float(value)))
        if samples[-1][0] < end - step:
            samples.append((samples[-1][0] + step, STALE))
        yield labels, samples
