"""Links between dashboards and alerts, and the provisioning of Grafana."""

from __future__ import annotations

import re

import yaml
from support.dashboards.dashboard_files import DASHBOARDS, GRAFANA
from support.dashboards.lint import VARIABLES

ROOT = GRAFANA.parent


def test_alerts_link_to_a_dashboard() -> None:
    """The uid in the rules' dashboard_url is that of a shipped dashboard, and its parameters are variables of it."""
    rules = (ROOT / "deploy/prometheus/rules.yml").read_text()
    uids = set(re.findall(r"dashboard_url: \S+/d/([\w-]+)", rules))
    assert uids
    assert uids <= set(DASHBOARDS)
    assert set(re.findall(r"[?&]var-(\w+)=", rules)) <= set(VARIABLES)


def test_dashboards_link_to_each_other() -> None:
    """Each dashboard links to all others by their tag, and keeps variables and time range."""
    for dashboard in DASHBOARDS.values():
        (link,) = dashboard["links"]
        assert link["type"] == "dashboards"
        assert set(link["tags"]) <= set(dashboard["tags"])
        assert link["includeVars"]
        assert link["keepTime"]


def test_provisioning_matches_the_compose_stack() -> None:
    """The provisioning files are read-only, and their folder is where the compose stack mounts the dashboards."""
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/ollama-throughput.yaml").read_text())
    assert source["apiVersion"] == provider["apiVersion"] == 1
    assert source["datasources"][0]["type"] == "prometheus"
    (folder,) = provider["providers"]
    assert (folder["type"], folder["allowUiUpdates"]) == ("file", False)
    compose = (ROOT / "deploy/compose/compose.yaml").read_text()
    assert f"../../grafana/dashboards:{folder['options']['path']}:ro" in compose
    assert "../../grafana/provisioning:/etc/grafana/provisioning:ro" in compose
