"""The committed dashboards are generated and free of problems."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.dashboards.dashboard_files import DASHBOARDS, GRAFANA
from support.dashboards.lint import find_problems


def test_committed_dashboards_are_generated(tmp_path: Path) -> None:
    """A rebuild writes exactly the committed files."""
    command = [sys.executable, str(GRAFANA / "build.py"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    rebuilt = {file.name: file.read_text() for file in tmp_path.iterdir()}
    committed = {file.name: file.read_text() for file in (GRAFANA / "dashboards").iterdir()}
    assert rebuilt == committed, "run `make dashboards`"
    assert {f"{uid}.json": dashboard["uid"] for uid, dashboard in DASHBOARDS.items()} == {f: f[:-5] for f in committed}


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_dashboard_has_no_problems(uid: str) -> None:
    """The schema and the rules of lint.py hold."""
    assert find_problems(DASHBOARDS[uid]) == []
