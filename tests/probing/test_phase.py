"""The phase of a model within its interval."""

from __future__ import annotations

from collections import Counter

import pytest

from exporter.plan import ModelKey
from exporter.probing.phase import due_in_seconds, phase_ratio

KEY = ModelKey("gpu-a", "llama3.1")


def test_phases_are_spread_evenly() -> None:
    """Of a thousand models about a tenth have their phase in each tenth of the interval."""
    tenths = Counter(int(10 * phase_ratio(ModelKey(f"gpu-{index}", "llama3.1"))) for index in range(1000))

    assert set(tenths) == set(range(10))
    assert all(60 < count < 140 for count in tenths.values())


def test_a_phase_never_changes() -> None:
    """It is the same in every release: an upgrade must not move the probes. Target and model are not mixed up."""
    assert phase_ratio(KEY) == pytest.approx(0.798242, abs=1e-6)
    assert phase_ratio(ModelKey("a", "bc")) != phase_ratio(ModelKey("ab", "c"))


@pytest.mark.parametrize("now", [0.0, 1_700_000_000.25, 1_700_000_899.5])
@pytest.mark.parametrize("interval", [1.0, 900.0])
def test_a_model_is_due_at_its_phase_of_the_unix_time(now: float, interval: float) -> None:
    """A program that starts at another time probes at the same times."""
    due_in = due_in_seconds(KEY, interval, now)

    assert 0 <= due_in < interval
    assert (now + due_in) % interval == pytest.approx(phase_ratio(KEY) * interval, abs=1e-5)


@pytest.mark.parametrize("now", [float(second) for second in range(0, 900, 50)])
def test_after_a_first_probe_the_phase_counts_half_an_interval_later(now: float) -> None:
    """Two probes in quick succession give no new information."""
    due_in = due_in_seconds(KEY, 900, now, first_in_seconds=4)

    assert 4 + 450 <= due_in < 4 + 450 + 900
    assert (now + due_in) % 900 == pytest.approx(phase_ratio(KEY) * 900, abs=1e-5)
