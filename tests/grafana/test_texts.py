"""Texts for the label values of rules and exporter, texts of empty panels, and colours."""

from __future__ import annotations

import json
import re
from itertools import combinations

import pytest
import yaml
from support.dashboards.colors import VISION, measure_contrast, measure_distance
from support.dashboards.dashboard_files import DASHBOARDS, FLEET, GRAFANA, MODEL, OVERVIEW, find_panel, list_panels

from exporter.errors import Reason, SkipReason

GREY = "#8E8E8E"
DARK, LIGHT = "#181b1f", "#ffffff"
"""The panel backgrounds of Grafana's themes."""


@pytest.mark.parametrize(("uid", "title"), [(OVERVIEW, "All models, furthest below baseline first"), (MODEL, "Cause")])
def test_every_cause_has_a_text(uid: str, title: str) -> None:
    """Each value of the rules' label `cause` has a value mapping, and no other value of the rules has one."""
    rules = yaml.safe_load((GRAFANA.parent / "deploy/prometheus/rules.yml").read_text())
    causes = {rule.get("labels", {}).get("cause") for group in rules["groups"] for rule in group["rules"]} - {None}
    config = find_panel(uid, title)["fieldConfig"]
    properties = [p for override in config["overrides"] for p in override["properties"] if p["id"] == "mappings"]
    mappings = [m for p in properties for m in p["value"]] + config["defaults"].get("mappings", [])
    assert causes in [set(mapping["options"]) for mapping in mappings]


@pytest.mark.parametrize(
    ("title", "reasons"), [("Failed probes by reason", Reason), ("Skipped probes by reason", SkipReason)]
)
def test_every_reason_is_described(title: str, reasons: type[Reason | SkipReason]) -> None:
    """The description has a list entry for each value of the label `reason`."""
    description = find_panel(FLEET, title)["description"]
    assert re.findall(r"^- `(\w+)`: .", description, re.MULTILINE) == list(reasons)


def test_empty_panel_names_the_reason() -> None:
    """A panel that needs GPU data or the rules says so when it is empty."""
    gpu_metrics = r"ollama_probe_(gpu_(clock|power|temp|throt|cons)|tokens_per_joule|bandwidth)"
    for panel in (panel for dashboard in DASHBOARDS.values() for panel in list_panels(dashboard)):
        expressions = [query["expr"] for query in panel["targets"]]
        text = panel["fieldConfig"]["defaults"]["noValue"]
        if any(re.search(gpu_metrics, expression) for expression in expressions):
            assert "GPU data" in text, panel["title"]
        if all(re.match(r"\(?ollama_probe:", expression) for expression in expressions):
            assert "rules.yml" in text, panel["title"]


def test_colours_are_distinct() -> None:
    """Line colours differ under every colour vision, and all colours stand out on both themes."""
    colors = set(re.findall(r'"fixedColor": "(#\w+)"', json.dumps(list(DASHBOARDS.values()))))
    assert len(colors - {GREY}) == 5
    for one, other in combinations(colors - {GREY}, 2):
        for vision in VISION:
            assert measure_distance(one, other, vision) > 24, (one, other, vision)
    for color in colors:
        assert min(measure_contrast(color, DARK), measure_contrast(color, LIGHT)) > 2.5, color
