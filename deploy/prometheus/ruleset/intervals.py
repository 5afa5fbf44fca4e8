"""Every constant of the rule set with its trade-off beside it, and the ladder of intervals that windows depend on.

Between probes each scrape repeats the last reading, so a window in seconds holds a number of runs that depends on the
interval. PromQL cannot compute a window; so each rule whose window depends on the interval is rendered once for each
step of a ladder, and each copy selects its pairs by `ollama_probe_interval_seconds`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR

PAIR = "job, target, model"
"""What a rate belongs to. Never `gpu`: a fall to the CPU changes that label, and a series that starts anew has no
past to be held against. Never `instance`: a restarted pod changes that one."""

NO_EVIDENCE_WINDOW = 210 * MINUTE
"""How long every clean reading must be slow before a drop pages that no state of the GPU explains.

The one knob between late and false pages. Nothing but time tells an unmarked neighbour from a drop of unknown cause,
so it must be longer than neighbours stay: shorter pages sooner, and cries wolf on a busy afternoon; longer is silent
for longer. Drawn at intervals of 15 minutes, with neighbours of 10-60 minutes of which 40 % are unmarked, 180 minutes
met three false pages in 200 series-months and 210 none; a true drop pages within four hours. Where neighbours that
nobody can mark stay for hours (a remote server), double it."""
NO_EVIDENCE_COVERAGE = 0.6
"""Share of that window with clean readings; the others failed, or are marked as contended. Higher overlooks a drop
while marked neighbours come and go (0.9 found two of three within four hours); lower takes the unmarked for a drop."""

FAST_COVERAGE = 0.8
"""Share of the last three runs' window in which a state must be known: less, and its mean is one chance reading."""

SUDDEN_FIRES, SUDDEN_CLEARS = 0.65, 0.80
"""Best reading of the window against the reference; then the median of the last hour. Lowering the first to 0.5
halves false pages and misses every drop of a third."""
DEEP_FIRES, DEEP_CLEARS = 0.75, 0.80
"""The upper quartile of half a day: neighbours would have to stay for nine hours of twelve."""
DEGRADED_FIRES, DEGRADED_CLEARS = 0.90, 0.93
"""The same quartile, for a warning."""
DEGRADED_DAY_FIRES, DEGRADED_DAY_CLEARS = 0.92, 0.94
"""Median of a day: finds a drop that noise hides from the quartile."""
DEGRADED_RECOVERED = 0.97
"""A median of six hours above this ends a warning before the day's median has forgotten the drop."""
SMALL_FIRES, SMALL_CLEARS = 0.95, 0.965
"""Median of two days. An expected rate is 2 % off, day and night differ by 3 %: no closer."""
VISIBLE_DROP = 0.90
"""Below this the last hour counts as a drop worth a cause on the dashboard, alert or not."""
ALWAYS_CONTENDED_SHARE, ALWAYS_CONTENDED_FIRES = 0.75, 0.90
"""Marked share of half a day, and the median rate of all its readings: contention itself is the finding then."""

OWN_WINDOW, OWN_MINIMUM = 2 * DAY, 12 * HOUR
"""A pair's normal is the median of two days, of which half a day must be clean. Longer learns a gain later; a shorter
minimum takes a quiet night for the normal."""
OWN_DECAY_PER_DAY = 0.0005
"""How fast a held normal sinks. A month of a lasting drop costs it 1.5 %, so that the drop is still one; a normal
that was once too high by 1 % takes three weeks to come down."""
OWN_MEMORY = 14 * DAY
"""How far back a normal is looked for: under the 15 days that a Prometheus keeps by default."""

NORM_WINDOW, NORM_DELAY = 7 * DAY, 6 * HOUR
"""A GPU state counts where it exceeds its own median of a week, which ended six hours ago: a card that always
throttles a little, or a model that always ran on the CPU, explains nothing of today."""
CONTENDED_SHARE = 0.4
"""Share of marked readings, over the window in which an unexplained drop is believed, that makes contention the
cause."""
CAP_EXPLAINS_CLOCK = 0.1
"""A low clock is no cause of its own where the power cap rose by this: a foreign program does both."""
STATE_MEMORY = 6 * HOUR
"""How long the state of the last three whole runs stands for the present one: a failed run changes no cause."""
CHANGE_WINDOW = 3 * DAY
"""How far back a change (version, digest, driver, workload) is looked for: as long as the slowest alert takes."""
CHANGE_MOVED = 0.96
"""A change counts where the median rate after it is below this share of the median before it."""
HOLD_WITHOUT_READINGS = 6 * HOUR
"""How long an alert is held after its pair was last scraped. Shorter resolves a page because the exporter died;
longer lets the page of a pair that was taken out of the configuration linger."""
LATCH_MEMORY = 10 * MINUTE
"""How long Prometheus may be away without forgetting what fires."""


@dataclass(frozen=True, slots=True)
class Step:
    """Pairs with an interval over `low` and up to `high` seconds; windows are sized for `high`."""

    low: float
    high: float


LADDER = tuple(
    Step(low, high)
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
    """How time runs in the rendered rules: `scale` is 1 in earnest, less in a demo whose days last minutes."""

    steps: Sequence[Step] = LADDER
    scale: float = 1.0
    sampling: float | None = None
    """Seconds between samples, where that is not the tick (in a benchmark, which need not look between two runs)."""

    @property
    def tick(self) -> float:
        """Seconds between evaluations of the rules that follow single readings."""
        return max(1.0, MINUTE * self.scale)

    @property
    def slow_tick(self) -> float:
        """Seconds between evaluations of the rules over hours and days: more than 5 minutes would leave gaps."""
        return max(2.0, 5 * MINUTE * self.scale)

    def samples(self, seconds: float) -> float:
        """How many samples of a fast group's record a window holds."""
        return seconds / (self.sampling or self.tick)

    @property
    def slow_step(self) -> float:
        """Seconds between the samples of a slow group's record."""
        return max(self.sampling or 0.0, self.slow_tick)

    def scaled(self, seconds: float) -> float:
        """A wall-clock window in this clock's seconds."""
        return seconds * self.scale

    def window(self, seconds: float) -> str:
        """A wall-clock window as PromQL."""
        return duration(self.scaled(seconds))

    @property
    def latch_memory(self) -> float:
        """How far back a latch looks for itself, in seconds: over some missed evaluations at least."""
        return max(self.scaled(LATCH_MEMORY), 5.5 * (self.sampling or self.tick))

    @property
    def slow_memory(self) -> str:
        """How far back the fast rules look for a record of the slow ones.

        A plain selector sees 5 minutes: the sample of a 5 minute group is exactly that old when the next is due, and
        Prometheus 3 leaves that one out.
        """
        return duration(3 * self.slow_tick)


def demo_clock(interval: float) -> Clock:
    """A clock for probes every `interval` seconds, in which a quarter of an hour lasts that long."""
    return Clock((Step(0, interval),), interval / (15 * MINUTE))


def duration(seconds: float) -> str:
    """Seconds as a PromQL duration, in the largest unit that divides them."""
    milliseconds = round(seconds * 1000)
    units = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
    return next(f"{milliseconds // size}{unit}" for unit, size in units if milliseconds % size == 0)


def fast_window(clock: Clock, step: Step) -> float:
    """Seconds that always hold at least three runs: two whole intervals and one evaluation more."""
    return max(2 * step.high + clock.tick, 4 * clock.tick)


def fast_needed(clock: Clock, step: Step) -> float:
    """Seconds of that window that states must fill."""
    return FAST_COVERAGE * fast_window(clock, step)


def fast_whole(clock: Clock, step: Step) -> float:
    """Seconds of that window that clean readings must fill: all, or two runs beside a marked one pass for three.

    A missed scrape leaves no gap in a record; a failed or marked run does.
    """
    return fast_window(clock, step) - 0.5 * clock.tick


def wide_window(clock: Clock, step: Step) -> float:
    """Seconds in which three clean runs may lie instead, with two failed or marked ones between."""
    return fast_window(clock, step) + 2 * step.high


def recent_window(clock: Clock, step: Step) -> float:
    """Seconds that say how it is now: three runs and a failed one's gap, at least an hour."""
    return max(3 * step.high + 5 * clock.tick, 65 * clock.tick)


def no_evidence_window(clock: Clock, step: Step) -> float:
    """`NO_EVIDENCE_WINDOW`, or three intervals where those take longer."""
    return max(clock.scaled(NO_EVIDENCE_WINDOW), 3 * step.high + clock.tick)


def no_evidence_needed(clock: Clock, step: Step) -> float:
    """Seconds of that window that clean readings must fill: a share of it, or nearly all where it holds few runs."""
    window = no_evidence_window(clock, step)
    return max(NO_EVIDENCE_COVERAGE * window, min(3.2 * step.high, 0.9 * window))


def failing_window(clock: Clock, step: Step) -> float:
    """Three runs; at least a quarter of an hour, so that a server's restart between fast probes is no alert."""
    return max(3 * step.high + 2 * clock.tick, 15 * clock.tick)


def change_presence(clock: Clock, step: Step) -> float:
    """How long a version counts as present after its last reading: a failed or contended run must not end it."""
    return max(125 * clock.tick, 2 * step.high + 5 * clock.tick)


def at_least_runs(runs: int, seconds: float) -> Callable[[Clock, Step], float]:
    """A wall-clock window, longer where an interval is so long that it would hold fewer than `runs` runs."""
    return lambda clock, step: max(clock.scaled(seconds), runs * step.high)


def on_ladder(clock: Clock, render: Callable[..., str], *sizes: Callable[[Clock, Step], float]) -> str:
    """One expression for all intervals: for each distinct set of sizes on the ladder, the pairs that it is meant for.

    In one rule and not in one for each step: promtool takes two rules that record the same name for a mistake.
    """
    parts = []
    for chosen, group in groupby(clock.steps, key=lambda step: [size(clock, step) for size in sizes]):
        steps = list(group)
        low = f" > {steps[0].low:.0f}" if steps[0].low else ""
        selection = f"max by ({PAIR}) (ollama_probe_interval_seconds){low} <= {steps[-1].high:g}"
        parts.append(f"({render(*chosen)})\nand on ({PAIR}) ({selection})")
    return "\nor\n".join(parts)
