"""A short soak: `make soak` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.soak import soak_for


@pytest.mark.slow
async def test_random_faults_and_reloads_leave_no_trace(tmp_path: Path) -> None:
    """Sums add up in each scrape, no counter goes back, nothing grows, and a healthy target keeps its due times."""
    soak = await soak_for(45, reload_seconds=8, seed=7, folder=tmp_path)
    soak.print_report()

    assert dict(soak.complaints) == {}
    assert soak.scrapes > 20
    assert soak.reloads >= 4
    assert soak.faults.total() > 50
