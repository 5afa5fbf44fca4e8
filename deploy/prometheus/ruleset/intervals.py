"""Windows in seconds that hold a given number of runs, for each range of probe intervals.

Between two probes every scrape repeats the last reading, so the number of runs in a window depends on the interval.
PromQL cannot compute the length of a range selector; therefore an expression with such a window is rendered once for
each range in `INTERVAL_RANGES`, and each copy selects its models by `ollama_probe_interval_seconds`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from ruleset.thresholds import (
    HOUR,
    LATCH_MEMORY,
    MINUTE,
    NO_EVIDENCE_COVERAGE,
    NO_EVIDENCE_WINDOW,
    RECENT_COVERAGE,
)

MODEL_KEY = "job, target, model"
"""The labels that identify one model on one target. Never `gpu`: a fall to the CPU changes that label, and the new
series would have no history to compare with. Never `instance`: a restarted pod changes it."""


@dataclass(frozen=True, slots=True)
class IntervalRange:
    """Models with an interval above `low` and up to `high` seconds; windows are sized for `high`."""

    low: float
    high: float


INTERVAL_RANGES = tuple(
    IntervalRange(low, high)
    for low, high in (
        (0, MINUTE),
        (MINUTE, 5 * MINUTE),
        (5 * MINUTE, 15 * MINUTE),
        (15 * MINUTE, HOUR),
        (HOUR, 6 * HOUR),
    )
)


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as the rendered rules see it: `scale` is 1 in production, and less in a demo whose days last minutes."""

    ranges: Sequence[IntervalRange] = INTERVAL_RANGES
    scale: float = 1.0
    sampling_seconds: float | None = None
    """Seconds between two samples, where that is not the evaluation interval (the benchmark samples once per run)."""

    @property
    def fast_interval(self) -> float:
        """Seconds between evaluations of the rules that follow single readings."""
        return max(1.0, MINUTE * self.scale)

    @property
    def slow_interval(self) -> float:
        """Seconds between evaluations of the rules over hours and days; more than 5 minutes would leave gaps."""
        return max(2.0, 5 * MINUTE * self.scale)

    def samples(self, seconds: float) -> float:
        """Return how many samples of a fast record a window holds."""
        return seconds / (self.sampling_seconds or self.fast_interval)

    @property
    def slow_sampling(self) -> float:
        """Seconds between two samples of a slow record."""
        return max(self.sampling_seconds or 0.0, self.slow_interval)

    def scaled(self, seconds: float) -> float:
        """Return a wall-clock time in seconds of this clock."""
        return seconds * self.scale

    def window(self, seconds: float) -> str:
        """Return a wall-clock time as a PromQL duration."""
        return format_duration(self.scaled(seconds))

    @property
    def latch_memory(self) -> float:
        """Seconds that a latched record looks back for itself: at least some missed evaluations."""
        return max(self.scaled(LATCH_MEMORY), 5.5 * (self.sampling_seconds or self.fast_interval))

    @property
    def slow_memory(self) -> str:
        """How far back the fast rules look for a slow record.

        An instant selector sees 5 minutes. The sample of a group evaluated every 5 minutes is exactly that old when
        the next one is due, and Prometheus 3 excludes it.
        """
        return format_duration(3 * self.slow_interval)


def demo_clock(interval: float) -> Clock:
    """Return a clock for probes every `interval` seconds on which a quarter of an hour lasts that long."""
    return Clock((IntervalRange(0, interval),), interval / (15 * MINUTE))


def format_duration(seconds: float) -> str:
    """Return seconds as a PromQL duration in the largest unit that divides them.

    Not `exporter.durations`: the generator runs without the exporter's dependencies, and PromQL takes no
    fractions such as Go's `1.5s`. Source: https://prometheus.io/docs/prometheus/latest/querying/basics/
    """
    milliseconds = round(seconds * 1000)
    units = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
    return next(f"{milliseconds // size}{unit}" for unit, size in units if milliseconds % size == 0)


def three_runs_window(clock: Clock, interval: IntervalRange) -> float:
    """Return seconds that always hold at least three runs: two whole intervals and one evaluation."""
    return max(2 * interval.high + clock.fast_interval, 4 * clock.fast_interval)


def three_runs_known(clock: Clock, interval: IntervalRange) -> float:
    """Return the minimum seconds of `three_runs_window` in which a state must be known."""
    return RECENT_COVERAGE * three_runs_window(clock, interval)


def three_runs_clean(clock: Clock, interval: IntervalRange) -> float:
    """Return the minimum seconds of `three_runs_window` with clean readings: all of it.

    With less, two clean runs and a marked one would count as three. A missed scrape leaves no gap in a record; a failed
    or marked run does.
    """
    return three_runs_window(clock, interval) - 0.5 * clock.fast_interval


def five_runs_window(clock: Clock, interval: IntervalRange) -> float:
    """Return seconds in which three clean runs may lie with two failed or marked ones between them."""
    return three_runs_window(clock, interval) + 2 * interval.high


def recent_window(clock: Clock, interval: IntervalRange) -> float:
    """Return seconds that describe the present: three runs and the gap of a failed one, at least an hour."""
    return max(3 * interval.high + 5 * clock.fast_interval, 65 * clock.fast_interval)


def no_evidence_window(clock: Clock, interval: IntervalRange) -> float:
    """Return `NO_EVIDENCE_WINDOW`, or three intervals where those take longer."""
    return max(clock.scaled(NO_EVIDENCE_WINDOW), 3 * interval.high + clock.fast_interval)


def no_evidence_clean(clock: Clock, interval: IntervalRange) -> float:
    """Return the minimum seconds of `no_evidence_window` with clean readings: nearly all where it holds few runs."""
    window = no_evidence_window(clock, interval)
    return max(NO_EVIDENCE_COVERAGE * window, min(3.2 * interval.high, 0.9 * window))


def failing_window(clock: Clock, interval: IntervalRange) -> float:
    """Return seconds that hold three runs, at least 15 minutes.

    The minimum keeps the restart of a server between fast probes from raising an alert.
    """
    return max(3 * interval.high + 2 * clock.fast_interval, 15 * clock.fast_interval)


def change_presence(clock: Clock, interval: IntervalRange) -> float:
    """Return how many seconds a version counts as current after its last reading, across failed runs."""
    return max(125 * clock.fast_interval, 2 * interval.high + 5 * clock.fast_interval)


def at_least_runs(runs: int, seconds: float) -> Callable[[Clock, IntervalRange], float]:
    """Return the function of a wall-clock window that is longer where it would hold fewer than `runs` runs."""
    return lambda clock, interval: max(clock.scaled(seconds), runs * interval.high)


def per_interval_range(
    clock: Clock, render: Callable[..., str], *sizes: Callable[[Clock, IntervalRange], float]
) -> str:
    """Return one expression for all intervals: a branch per distinct set of sizes, joined by `or`.

    One rule, and not one per range: promtool reports rules that record the same name as duplicates.
    """
    branches = []
    for chosen, group in groupby(clock.ranges, key=lambda interval: [size(clock, interval) for size in sizes]):
        ranges = list(group)
        low = f" > {ranges[0].low:.0f}" if ranges[0].low else ""
        selection = f"max by ({MODEL_KEY}) (ollama_probe_interval_seconds){low} <= {ranges[-1].high:g}"
        branches.append(f"({render(*chosen)})\nand on ({MODEL_KEY}) ({selection})")
    return "\nor\n".join(branches)
