"""Histories of probes with a known truth: ordinary months, and months in which one thing happens at a known moment.

Everything is drawn run by run. A pair has its own pace, noise (1-5 %), difference between day and night, and quirks
(a card that always sits at its power limit, or is warm). Neighbours come mostly by day and on some afternoons one
after another; a share of them nobody marks. Single runs fail, and now and then a burst of them; exporters restart,
pods get new names, a scrape is lost.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from replay import Grid

DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Neighbours:
    """How other work on the same card comes and goes."""

    shortest: float = 180.0
    longest: float = 1500.0
    unmarked: float = 0.25
    per_day: float = 10.0
    busy_share: float = 0.2
    """Share of days with a busy afternoon, in which they come one after another."""


USUAL = Neighbours()
LONG = Neighbours(shortest=600.0, longest=3600.0, unmarked=0.4)


@dataclass(frozen=True, slots=True)
class Event:
    """What happens at one moment and stays: the rate falls (or not) and something is to be seen of it (or not)."""

    cause: str
    """A cause of the rules, or of the benign changes `gain`, `new_version`, `new_digest`, `renamed_card`."""
    size: float
    """The share of the rate that is lost; negative for a gain."""
    at: float
    """Seconds after the history's beginning."""


BENIGN = ("gain", "new_version", "new_digest", "renamed_card")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One session of other work."""

    start: float
    end: float
    pace: float
    marked: bool
    visible: bool
    """Whether the card's power and clock show it."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one probe found; None in `rate` is a failed one."""

    at: float
    rate: float | None
    reason: str = ""
    gpu: str = "NVIDIA A"
    on_gpu: float = 1.0
    marked: bool = False
    throttled: dict[str, float] = field(default_factory=dict)
    clock: float | None = 1.98e9
    hash: str = "w1"
    version: str = "0.33.0"
    digest: str = "d1"
    driver: str = "570.1"


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair's history: its runs, when nothing could be scraped, and what happened."""

    model: str
    interval: float
    pace: float
    expected: float | None
    runs: Sequence[Run]
    gaps: Sequence[tuple[float, float]]
    renames: Sequence[float]
    event: Event | None
    bursts: Sequence[tuple[float, float]]


CLOCK_MAX = 1.98e9
REASONS = ("sw_thermal", "hw_thermal", "hw_power_brake", "hw_slowdown", "sw_power_cap")


def neighbours(source: random.Random, days: float, habits: Neighbours) -> list[Neighbour]:
    """All sessions of a history, in order."""
    found = []

    def session(start: float) -> Neighbour:
        length = source.uniform(habits.shortest, habits.longest)
        marked = source.random() >= habits.unmarked
        return Neighbour(start, start + length, source.uniform(0.25, 0.85), marked, source.random() < 0.5)

    for day in range(math.ceil(days)):
        busy = source.random() < habits.busy_share
        now = day * DAY
        while now < (day + 1) * DAY:
            hour = now % DAY / 3600
            rate = habits.per_day * (1.7 if 8 <= hour < 20 else 0.3) / DAY
            if busy and 13 <= hour < 18:
                rate = 1 / (1.5 * habits.shortest)
            pause = source.expovariate(rate)
            # The rate changes by the hour: a pause that runs past it is drawn again from there.
            edge = (math.floor(now / 3600) + 1) * 3600.0
            if now + pause > edge:
                now = edge
                continue
            found.append(session(now + pause))
            now = found[-1].end
    return found


def shown(run: Run, event: Event, source: random.Random) -> Run:
    """A run as the event lets it look, its rate aside."""
    share, clock = source.uniform(0.55, 1.0), (run.clock or CLOCK_MAX) * (1 - event.size)

    def throttled(reason: str, how_much: float = share, clock: float | None = clock) -> Run:
        return replace(run, throttled=run.throttled | {reason: how_much}, clock=clock)

    looks: dict[str, Callable[[], Run]] = {
        "cpu": lambda: replace(run, gpu="cpu", on_gpu=0.0, clock=None, throttled={}),
        "partial_offload": lambda: replace(run, on_gpu=1 - min(0.9, max(0.05, event.size / 2))),
        "thermal": lambda: throttled(source.choice(("sw_thermal", "hw_thermal"))),
        "hw_power_brake": lambda: throttled("hw_power_brake"),
        "hw_slowdown": lambda: throttled("hw_slowdown"),
        "contended": lambda: replace(throttled("sw_power_cap", share, run.clock), marked=source.random() < 0.95),
        "power_cap": lambda: throttled("sw_power_cap", source.uniform(0.8, 1.0)),
        "clock_low": lambda: replace(run, clock=clock),
        "workload_changed": lambda: replace(run, hash="w2"),
        "version_changed": lambda: replace(run, version="0.34.0"),
        "new_version": lambda: replace(run, version="0.34.0"),
        "digest_changed": lambda: replace(run, digest="d2"),
        "new_digest": lambda: replace(run, digest="d2"),
        "driver_changed": lambda: replace(run, driver="580.2"),
        "renamed_card": lambda: replace(run, gpu="NVIDIA A 80GB"),
    }
    return looks.get(event.cause, lambda: run)()


def history(
    seed: str,
    *,
    interval: float,
    days: float,
    habits: Neighbours = USUAL,
    event: Event | None = None,
    known: bool | None = None,
) -> Pair:
    """One pair's history. `known`: whether it has an expected rate; left out, half of them have."""
    source = random.Random(seed)
    pace, noise, swing = math.exp(source.uniform(2, 5.3)), source.uniform(0.01, 0.05), source.uniform(0, 0.015)
    known = source.random() < 0.5 if known is None else known
    capped, warm = source.random() < 0.15, source.random() < 0.1
    sessions = neighbours(source, days, habits)
    starts = [session.start for session in sessions]
    gaps, renames = restarts(source, days)
    bursts = [
        (start, start + source.uniform(3, 8) * interval) for start in poisson(source, 0.3 / (30 * DAY), days * DAY)
    ]
    runs = []
    offset = source.uniform(0, interval)
    for number in range(int((days * DAY - offset) // interval)):
        at = offset + number * interval
        if any(start <= at < end for start, end in gaps):
            continue
        throttled = dict.fromkeys(REASONS, 0.0)
        if capped:
            throttled["sw_power_cap"] = source.uniform(0.5, 1.0)
        if warm:
            throttled["sw_thermal"] = source.uniform(0.05, 0.4)
        clock = CLOCK_MAX * source.uniform(0.93, 1.0) * (0.85 if capped else 1.0)
        run = Run(at, None, throttled=throttled, clock=clock)
        share = 1 + swing * math.cos(2 * math.pi * (at / DAY - 3 / 24)) + source.gauss(0, noise)
        if event and at >= event.at:
            share *= 1 - event.size
            run = shown(run, event, source)
        place = bisect_right(starts, at) - 1
        if place >= 0 and at < sessions[place].end:
            other = sessions[place]
            share *= other.pace
            run = replace(run, marked=run.marked or other.marked)
            if other.visible and run.clock:
                limits = run.throttled | {"sw_power_cap": 1.0}
                run = replace(run, throttled=limits, clock=run.clock * (0.5 + other.pace / 2))
        if any(start <= at < end for start, end in bursts):
            run = replace(run, reason="connect")
        elif source.random() < 0.01:
            run = replace(run, reason=source.choice(("timeout", "http", "busy")))
        else:
            run = replace(run, rate=pace * max(share, 0.01))
        runs.append(run)
    expected = pace * (1 + source.uniform(-0.02, 0.02)) if known else None
    return Pair(seed, interval, pace, expected, runs, gaps, renames, event, bursts)


def poisson(source: random.Random, rate: float, end: float) -> Iterator[float]:
    """Moments that come at a mean rate."""
    now = source.expovariate(rate)
    while now < end:
        yield now
        now += source.expovariate(rate)


def restarts(source: random.Random, days: float) -> tuple[list[tuple[float, float]], list[float]]:
    """When nothing is scraped (restarts of minutes, a lost hour), and which of them bring a new instance label."""
    short = [(at, at + source.uniform(30, 180)) for at in poisson(source, 3 / (30 * DAY), days * DAY)]
    long = [(at, at + source.uniform(600, 7200)) for at in poisson(source, 1 / (30 * DAY), days * DAY)]
    return sorted(short + long), sorted(end for _, end in short if source.random() < 0.5)


def exposition(pair: Pair, grid: Grid) -> Iterator[str]:
    """What Prometheus scraped of a pair, as OpenMetrics lines by series."""
    series: dict[str, list[str]] = {}
    times = [run.at for run in pair.runs]
    failures, counted = dict.fromkeys(("connect", "timeout", "http", "busy"), 0), 0
    for at in grid.times():
        since = float(at - grid.start)
        if any(start <= since < end for start, end in pair.gaps):
            continue
        newest = bisect_right(times, since)
        for run in pair.runs[counted:newest]:
            if run.rate is None:
                failures[run.reason] += 1
        counted = newest
        instance = f'instance="exporter-{bisect_right(pair.renames, since)}"'
        samples = [
            ("interval_seconds", "", pair.interval),
            *(("failures_total", f',reason="{reason}"', count) for reason, count in failures.items()),
            *([("expected_decode_tokens_per_second", "", pair.expected)] if pair.expected else []),
            *(scraped(pair, pair.runs[newest - 1], since) if newest else []),
        ]
        for name, labels, value in samples:
            who = f'job="ollama-probe",{instance},target="{pair.model}",model="{pair.model}"'
            key = f"ollama_probe_{name}{{{who}{labels}}}"
            series.setdefault(key, []).append(f"{key} {value!r} {at}\n")
    for samples_of_one in series.values():
        yield from samples_of_one


def scraped(pair: Pair, run: Run, since: float) -> Iterator[tuple[str, str, float]]:
    """Name, labels and value of each series that the newest run left behind."""
    uuid = f',uuid="GPU-{pair.model}"'
    yield "workload_info", f',hash="{run.hash}"', 1
    yield "server_info", f',version="{run.version}"', 1
    yield "model_info", f',digest="{run.digest}",quantization="Q4_K_M"', 1
    yield "gpu_info", f'{uuid},driver_version="{run.driver}"', 1
    yield "success", "", float(run.rate is not None)
    # Withdrawn after a failure, when too old, and by a restart until the next run.
    restarted = any(run.at < end <= since for _, end in pair.gaps)
    if run.rate is None or since - run.at > 2 * pair.interval + 120 or restarted:
        return
    reading = f',gpu="{run.gpu}"'
    yield "model_gpu_info", uuid, 1
    yield "decode_tokens_per_second", reading, run.rate
    yield "model_gpu_ratio", reading, run.on_gpu
    yield "contended", f'{reading},by="gpu"', float(run.marked)
    for reason, share in run.throttled.items():
        yield "gpu_throttled_ratio", f'{reading},reason="{reason}"', share
    if run.clock:
        yield "gpu_clock_hertz", reading, run.clock
        yield "gpu_clock_max_hertz", reading, CLOCK_MAX
