"""Simulated histories of probes: ordinary months, and months with one event at a known time.

Every run is drawn at random. A model has its own rate, noise (1-5 %) and difference between day and night; some GPUs
are always at their power limit or warm. Sessions of other work come mostly by day, on some afternoons one after
another, and a share of them is not marked as contended. Single runs and bursts of runs fail, exporters restart, pods
are renamed, scrapes are lost.
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
class ContentionProfile:
    """How often other work uses the same GPU, and for how long."""

    shortest_seconds: float = 180.0
    longest_seconds: float = 1500.0
    unmarked_share: float = 0.25
    """Share of sessions that the exporter does not detect."""
    per_day: float = 10.0
    busy_share: float = 0.2
    """Share of days with a busy afternoon, in which sessions follow one another."""


USUAL = ContentionProfile()
LONG = ContentionProfile(shortest_seconds=600.0, longest_seconds=3600.0, unmarked_share=0.4)


@dataclass(frozen=True, slots=True)
class Event:
    """A change that happens once and lasts: of the rate, of a state that the exporter observes, or of both."""

    cause: str
    """A cause of the rules, or one of `BENIGN`."""
    size: float
    """Share of the rate that is lost; negative for a gain."""
    at: float
    """Seconds after the beginning of the history."""


BENIGN = ("gain", "new_version", "new_digest", "renamed_card")


@dataclass(frozen=True, slots=True)
class ContendedSession:
    """One session of other work on the GPU."""

    start: float
    end: float
    rate_share: float
    """Share of the rate that is left for the probe."""
    marked: bool
    visible: bool
    """Whether it shows in the power limit and the clock of the GPU."""


@dataclass(frozen=True, slots=True)
class Run:
    """The result of one probe; a `rate` of None is a failure."""

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
class History:
    """The history of one model on one target: its runs, the times without scrapes, and the event."""

    model: str
    interval: float
    rate: float
    """Tokens per second without noise, contention and event."""
    expected: float | None
    runs: Sequence[Run]
    gaps: Sequence[tuple[float, float]]
    renames: Sequence[float]
    event: Event | None
    bursts: Sequence[tuple[float, float]]


CLOCK_MAX = 1.98e9
REASONS = ("sw_thermal", "hw_thermal", "hw_power_brake", "hw_slowdown", "sw_power_cap")


def draw_sessions(source: random.Random, days: float, profile: ContentionProfile) -> list[ContendedSession]:
    """Return all sessions of a history, in order."""
    found = []

    def session(start: float) -> ContendedSession:
        length = source.uniform(profile.shortest_seconds, profile.longest_seconds)
        marked = source.random() >= profile.unmarked_share
        return ContendedSession(start, start + length, source.uniform(0.25, 0.85), marked, source.random() < 0.5)

    for day in range(math.ceil(days)):
        busy = source.random() < profile.busy_share
        now = day * DAY
        while now < (day + 1) * DAY:
            hour = now % DAY / 3600
            rate = profile.per_day * (1.7 if 8 <= hour < 20 else 0.3) / DAY
            if busy and 13 <= hour < 18:
                rate = 1 / (1.5 * profile.shortest_seconds)
            pause = source.expovariate(rate)
            # The frequency changes every hour: a pause beyond the hour is drawn again from there.
            edge = (math.floor(now / 3600) + 1) * 3600.0
            if now + pause > edge:
                now = edge
                continue
            found.append(session(now + pause))
            now = found[-1].end
    return found


def with_event(run: Run, event: Event, source: random.Random) -> Run:
    """Return a run with the states that the event shows; its rate is left as it is."""
    share, clock = source.uniform(0.55, 1.0), (run.clock or CLOCK_MAX) * (1 - event.size)

    def throttled(reason: str, amount: float = share, clock: float | None = clock) -> Run:
        return replace(run, throttled=run.throttled | {reason: amount}, clock=clock)

    by_cause: dict[str, Callable[[], Run]] = {
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
    return by_cause.get(event.cause, lambda: run)()


def draw_history(
    seed: str,
    *,
    interval: float,
    days: float,
    profile: ContentionProfile = USUAL,
    event: Event | None = None,
    known: bool | None = None,
) -> History:
    """Return a history drawn from a seed.

    `known` is whether the model has an expected rate; by default, half of the histories have one.
    """
    source = random.Random(seed)
    base_rate, noise, swing = math.exp(source.uniform(2, 5.3)), source.uniform(0.01, 0.05), source.uniform(0, 0.015)
    known = source.random() < 0.5 if known is None else known
    capped, warm = source.random() < 0.15, source.random() < 0.1
    contended = draw_sessions(source, days, profile)
    starts = [session.start for session in contended]
    gaps, renames = draw_restarts(source, days)
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
            run = with_event(run, event, source)
        place = bisect_right(starts, at) - 1
        if place >= 0 and at < contended[place].end:
            other = contended[place]
            share *= other.rate_share
            run = replace(run, marked=run.marked or other.marked)
            if other.visible and run.clock:
                limits = run.throttled | {"sw_power_cap": 1.0}
                run = replace(run, throttled=limits, clock=run.clock * (0.5 + other.rate_share / 2))
        if any(start <= at < end for start, end in bursts):
            run = replace(run, reason="connect")
        elif source.random() < 0.01:
            run = replace(run, reason=source.choice(("timeout", "http", "busy")))
        else:
            run = replace(run, rate=base_rate * max(share, 0.01))
        runs.append(run)
    expected = base_rate * (1 + source.uniform(-0.02, 0.02)) if known else None
    return History(seed, interval, base_rate, expected, runs, gaps, renames, event, bursts)


def poisson(source: random.Random, rate: float, end: float) -> Iterator[float]:
    """Yield the times of a Poisson process with a mean rate per second."""
    now = source.expovariate(rate)
    while now < end:
        yield now
        now += source.expovariate(rate)


def draw_restarts(source: random.Random, days: float) -> tuple[list[tuple[float, float]], list[float]]:
    """Return the gaps without scrapes (restarts, longer outages), and the times at which the instance label changes."""
    short = [(at, at + source.uniform(30, 180)) for at in poisson(source, 3 / (30 * DAY), days * DAY)]
    long = [(at, at + source.uniform(600, 7200)) for at in poisson(source, 1 / (30 * DAY), days * DAY)]
    return sorted(short + long), sorted(end for _, end in short if source.random() < 0.5)


def exposition(history: History, grid: Grid) -> Iterator[str]:
    """Yield the samples that Prometheus scraped of a history, as OpenMetrics lines grouped by series."""
    series: dict[str, list[str]] = {}
    times = [run.at for run in history.runs]
    failures, counted = dict.fromkeys(("connect", "timeout", "http", "busy"), 0), 0
    for at in grid.times():
        since = float(at - grid.start)
        if any(start <= since < end for start, end in history.gaps):
            continue
        latest = bisect_right(times, since)
        for run in history.runs[counted:latest]:
            if run.rate is None:
                failures[run.reason] += 1
        counted = latest
        instance = f'instance="exporter-{bisect_right(history.renames, since)}"'
        samples = [
            ("interval_seconds", "", history.interval),
            *(("failures_total", f',reason="{reason}"', count) for reason, count in failures.items()),
            *([("expected_decode_tokens_per_second", "", history.expected)] if history.expected else []),
            *(scraped(history, history.runs[latest - 1], since) if latest else []),
        ]
        for name, labels, value in samples:
            labels_of_model = f'job="ollama-probe",{instance},target="{history.model}",model="{history.model}"'
            key = f"ollama_probe_{name}{{{labels_of_model}{labels}}}"
            series.setdefault(key, []).append(f"{key} {value!r} {at}\n")
    for lines in series.values():
        yield from lines


def scraped(history: History, run: Run, since: float) -> Iterator[tuple[str, str, float]]:
    """Yield name, labels and value of each series of the last run, `since` seconds after the beginning."""
    uuid = f',uuid="GPU-{history.model}"'
    yield "workload_info", f',hash="{run.hash}"', 1
    yield "server_info", f',version="{run.version}"', 1
    yield "model_info", f',digest="{run.digest}",quantization="Q4_K_M"', 1
    yield "gpu_info", f'{uuid},driver_version="{run.driver}"', 1
    yield "success", "", float(run.rate is not None)
    # Readings are withdrawn after a failure, when too old, and by a restart until the next run.
    restarted = any(run.at < end <= since for _, end in history.gaps)
    if run.rate is None or since - run.at > 2 * history.interval + 120 or restarted:
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
