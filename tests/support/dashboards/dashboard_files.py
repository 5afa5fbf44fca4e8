"""The committed dashboards, their panels and their queries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GRAFANA = Path(__file__).parents[3] / "grafana"
OVERVIEW, MODEL, FLEET = "ollama-throughput-overview", "ollama-throughput", "ollama-throughput-fleet"
DASHBOARDS: dict[str, dict[str, Any]] = {
    uid: json.loads((GRAFANA / "dashboards" / f"{uid}.json").read_text()) for uid in (OVERVIEW, MODEL, FLEET)
}
"""The dashboards by uid."""


def list_panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a dashboard's panels, including those of collapsed rows."""
    for panel in dashboard["panels"]:
        if panel.get("type") == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def list_queries(dashboard: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return each query of a dashboard with its panel, as (panel, query)."""
    return [(panel, query) for panel in list_panels(dashboard) for query in panel["targets"]]


def find_panel(uid: str, title: str) -> dict[str, Any]:
    """Return the panel of a dashboard with this title."""
    return next(panel for panel in list_panels(DASHBOARDS[uid]) if panel["title"] == title)


def find_query(panel: dict[str, Any], ref_id: str) -> dict[str, Any]:
    """Return the query of a panel with this refId."""
    return next(query for query in panel["targets"] if query["refId"] == ref_id)
