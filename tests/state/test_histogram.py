"""The duration histogram."""

from __future__ import annotations

import math

import pytest

from exporter.state.histogram import BUCKETS_SECONDS, DurationHistogram


def test_an_observation_counts_in_every_bucket_from_its_own_up() -> None:
    """Bounds are inclusive, and the last count is the number of all observations."""
    histogram = DurationHistogram()
    for seconds in (0.0, 1.0, 1.5, 600.0, 601.0):
        histogram = histogram.observe(seconds)

    assert dict(zip((*BUCKETS_SECONDS, math.inf), histogram.counts, strict=True)) == {
        1.0: 2,
        **dict.fromkeys(BUCKETS_SECONDS[1:-1], 3),
        600.0: 4,
        math.inf: 5,
    }
    assert histogram.sum_seconds == 1203.5


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -1e-9])
def test_an_impossible_duration_counts_as_zero_seconds(seconds: float) -> None:
    """The number of observations stays right, and the sum stays a number."""
    histogram = DurationHistogram().observe(2.0).observe(seconds)

    assert histogram == DurationHistogram().observe(2.0).observe(0.0)
