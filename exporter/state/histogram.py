"""A classic histogram as a frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass

BUCKETS_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


@dataclass(frozen=True, slots=True)
class DurationHistogram:
    """Durations counted by `BUCKETS_SECONDS`."""

    counts: tuple[int, ...] = (0,) * (len(BUCKETS_SECONDS) + 1)
    """Cumulative, one per bucket; the last is the number of all observations."""
    sum_seconds: float = 0.0

    def observe(self, seconds: float) -> DurationHistogram:
        """Return the histogram with one more observation. Negative or not finite durations count as 0 seconds."""
        seconds = seconds if 0 <= seconds < math.inf else 0.0
        bounds = (*BUCKETS_SECONDS, math.inf)
        counts = tuple(count + (seconds <= bound) for count, bound in zip(self.counts, bounds, strict=True))
        return DurationHistogram(counts, self.sum_seconds + seconds)
