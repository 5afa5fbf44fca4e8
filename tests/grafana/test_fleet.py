"""The fleet dashboard compares models across targets, and shows failures and costs of the probes."""

from __future__ import annotations

import pytest
from support.dashboards.dashboard_files import FLEET, find_panel, find_query
from support.dashboards.week import Week, index_by_model


def test_deviation_from_peers(week: Week) -> None:
    """A model on the CPU is far below its peers, one on a throttled GPU a little; a model without peers is absent."""
    deviation = index_by_model(week.query(find_query(find_panel(FLEET, "Same model across targets"), "against")))
    assert deviation["gpu-a", "llama3.1"] < -0.85
    assert -0.2 < deviation["gpu-d", "llama3.1"] < -0.1
    assert deviation.keys() == {("gpu-a", "llama3.1"), ("gpu-b", "llama3.1"), ("gpu-d", "llama3.1")}


def test_time_spent_probing_is_a_share_of_the_time_range(week: Week) -> None:
    """A target's share is the duration of its probe, here about 2.8 s, divided by the interval of 900 s."""
    rows = week.query(find_query(find_panel(FLEET, "Time spent probing"), "A"))
    shares = {labels["target"]: values[-1] for labels, values in rows}
    assert shares["gpu-b"] == pytest.approx((256 / 108 + 0.45) / 900, rel=0.05)


def test_failures_and_skips_are_counted_by_reason(week: Week) -> None:
    """Only what failed or was skipped in the week has a bar."""
    failed, skipped = (
        {(labels["target"], labels["reason"]) for labels, _ in week.query(find_query(find_panel(FLEET, title), "A"))}
        for title in ("Failed probes by reason", "Skipped probes by reason")
    )
    assert failed == {("gpu-d", "connect")}
    assert skipped == {("gpu-c", "occupied")}
