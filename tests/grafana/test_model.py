"""The dashboard of one model."""

from __future__ import annotations

from support.dashboards.dashboard_files import MODEL, find_panel
from support.dashboards.week import Week

from exporter.reading import ThrottleReason


def test_series_beyond_the_colours_are_in_the_last_query(week: Week) -> None:
    """Of nine series, the five largest have a query and so a colour each, and the rest share one."""
    series_by_query = {
        query["refId"]: {(labels["target"], labels["model"], labels["gpu"]) for labels, _ in week.query(query)}
        for query in find_panel(MODEL, "Decode rate and baseline (tokens/s)")["targets"]
        if query["refId"].startswith(("rank", "others"))
    }
    assert [len(series_by_query[f"rank{number}"]) for number in range(1, 6)] == [1] * 5
    assert len(set().union(*series_by_query.values())) == sum(map(len, series_by_query.values())) == 9


def test_every_throttle_reason_has_a_text() -> None:
    """The chart of throttling names each value of the label `reason`."""
    overrides = find_panel(MODEL, "GPU clock and throttling")["fieldConfig"]["overrides"]
    named = {o["matcher"]["options"] for o in overrides if any(p["id"] == "displayName" for p in o["properties"])}
    assert named == set(ThrottleReason)
