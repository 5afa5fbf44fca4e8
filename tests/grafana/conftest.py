"""The simulated week, which the tests of all dashboards query."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from support import programs
from support.dashboards.dashboard_files import DASHBOARDS, OVERVIEW, list_queries
from support.dashboards.history import CONFIG, FLAGS, backfill, write_history
from support.dashboards.recorded_rules import evaluate_rules
from support.dashboards.simulated_fleet import DAY, HOUR
from support.dashboards.week import ALL, STEP, Week, run_query


@pytest.fixture(scope="session")
def week(
    newest_release: programs.Release,
    run_prometheus: Callable[..., programs.Prometheus],
    tmp_path_factory: pytest.TempPathFactory,
) -> Week:
    """Return a Prometheus with the simulated week, and with the results of the shipped rules for its last ten hours."""
    folder = tmp_path_factory.mktemp("week")
    end = time.time() // 60 * 60
    write_history(folder / "week.om", begin=end - 7 * DAY, end=end, step=STEP)
    backfill(newest_release.promtool, folder / "week.om", folder / "data")
    prometheus = run_prometheus(newest_release, CONFIG, *FLAGS, folder=folder)
    before_rules = {
        (panel["title"], query["refId"]): run_query(prometheus, query, ALL, end)
        for panel, query in list_queries(DASHBOARDS[OVERVIEW])
    }
    evaluate_rules(prometheus, begin=end - 10 * HOUR, end=end)
    return Week(prometheus, end, before_rules)
