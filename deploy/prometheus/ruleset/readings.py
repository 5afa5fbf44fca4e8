"""The recording rules: what a reading is held against, how the pair fared, what fires, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ruleset import intervals as steps
from ruleset.causes import RANK, STATES, Cause
from ruleset.intervals import PAIR, Clock, at_least_runs, duration, on_ladder

Rule = dict[str, Any]

RATE = "ollama_probe:decode_tokens_per_second"
STATE = "ollama_probe:state"
DROP = "ollama_probe:drop:active"
CAUSE = "ollama_probe:cause"

CONTENDED, TRUNCATED, DEGENERATE = "contended", "truncated", "degenerate"
CHANGES: tuple[tuple[Cause, str, tuple[str, ...], str], ...] = (
    (Cause.WORKLOAD_CHANGED, "workload", ("hash",), "ollama_probe_workload_info"),
    (Cause.DIGEST_CHANGED, "model", ("digest", "quantization"), "ollama_probe_model_info"),
    (
        Cause.DRIVER_CHANGED,
        "driver",
        ("uuid", "driver_version"),
        "ollama_probe_model_gpu_info\n* on (job, instance, uuid) group_left (driver_version) ollama_probe_gpu_info",
    ),
    (Cause.DRIVER_CHANGED, "card", ("gpu",), 'ollama_probe_decode_tokens_per_second{gpu!~"cpu|unknown"} * 0 + 1'),
)
"""What may change under a pair's rate: the cause, the kind, the labels that tell it, and an info metric (1) with
them."""


def record(name: str, expr: str, **labels: str) -> Rule:
    """One recording rule."""
    return {"record": name, "expr": expr} | ({"labels": labels} if labels else {})


def latest(name: str, clock: Clock, **labels: str) -> str:
    """A slow group's record, as a fast one reads it."""
    matchers = ", ".join(f'{key}="{value}"' for key, value in labels.items())
    return f"last_over_time({name}{{{matchers}}}[{clock.slow_memory}])".replace("{}", "")


def readings(clock: Clock) -> Iterator[Rule]:
    """The rate that counts, what it is held against, and the state it was taken in."""
    yield from rates(clock)
    yield from states()


def rates(clock: Clock) -> Iterator[Rule]:
    """One relative rate for all levels.

    Readings beside other work on the GPU are left out: they say how fast the neighbour is. Those that only waited in
    the queue count, since waiting does not touch the decode rate. An expected rate comes before the pair's own
    normal, which is read for the present workload alone: an answer to another prompt has another pace.
    """
    yield record(
        f"{RATE}:usable",
        f"max by ({PAIR}) (ollama_probe_decode_tokens_per_second)\n"
        f'unless on ({PAIR}) (max by ({PAIR}) (ollama_probe_contended{{by=~"gpu|model"}}) == 1)',
    )
    yield record(
        f"{RATE}:reference",
        f"max by ({PAIR}) (ollama_probe_expected_decode_tokens_per_second)\n"
        f"or max by ({PAIR}) (\n"
        f"  {latest(f'{RATE}:own', clock)}\n"
        f"  and on ({PAIR}, hash) max by ({PAIR}, hash) (ollama_probe_workload_info)\n)",
    )
    yield record(f"{RATE}:ratio", f"{RATE}:usable / {RATE}:reference")
    yield record(
        f"{RATE}:measured_ratio", f"max by ({PAIR}) (ollama_probe_decode_tokens_per_second) / {RATE}:reference"
    )


def states() -> Iterator[Rule]:
    """Shares from 0 to 1 that came with the latest reading, under one name so that one rule can average them all."""
    for cause, state in STATES.items():
        yield record(f"{STATE}:latest", state.expr, state=cause)
    yield record(f"{STATE}:latest", f'max by ({PAIR}) (ollama_probe_contended{{by=~"gpu|model"}})', state=CONTENDED)
    yield record(f"{STATE}:latest", f"max by ({PAIR}) (ollama_probe_truncated)", state=TRUNCATED)
    yield record(f"{STATE}:latest", f"1 - min by ({PAIR}) (ollama_probe_distinct_chunks_ratio)", state=DEGENERATE)


def covered(function: str, series: str, clock: Clock) -> Callable[[float, float], str]:
    """`function` over a window of which so much holds samples: one reading after a gap is no window."""

    def render(seconds: float, needed: float) -> str:
        window = f"{series}[{duration(seconds)}]"
        return f"{function}({window})\nand count_over_time({window}) >= {clock.samples(needed):g}"

    return render


def windows(clock: Clock) -> Iterator[Rule]:
    """What the last runs say.

    `best_recent`: three clean runs and all of them slow, so that one bad run, or one in three, is nothing.
    `best_long`: the same over the window in which an unexplained drop is believed. `recent`: how it is now, through
    failed and contended runs.
    """
    ratio, best = f"{RATE}:ratio", "max_over_time"
    states, fast = covered("avg_over_time", f"{STATE}:latest", clock), covered(best, ratio, clock)
    believed = (steps.no_evidence_window, steps.no_evidence_needed)
    yield record(f"{STATE}:recent", on_ladder(clock, states, steps.fast_window, steps.fast_needed))
    three_runs = (steps.fast_window, steps.fast_whole, steps.wide_window)
    yield record(
        f"{ratio}_best_recent",
        on_ladder(clock, lambda w, needed, wide: f"{fast(w, needed)}\nor {fast(wide, needed)}", *three_runs),
    )
    yield record(f"{ratio}_best_long", on_ladder(clock, fast, *believed))
    yield record(
        f"{ratio}_recent",
        on_ladder(clock, lambda w: f"quantile_over_time(0.5, {ratio}[{duration(w)}])", steps.recent_window),
    )
    shared = f'{STATE}:latest{{state=~"{CONTENDED}|{Cause.POWER_CAP}"}}'
    yield record(
        f"{STATE}:long",
        on_ladder(clock, lambda w: f"avg_over_time({shared}[{duration(w)}])", steps.no_evidence_window),
    )


def failures(clock: Clock) -> Iterator[Rule]:
    """Pairs of which three runs in a row failed, by the reason of most of them, else `mixed`.

    By counters and not by `success` alone, which a scrape repeats: two chance failures are no alert. The reason of
    the majority, and not that of the last, because a label that changes is another alert.
    """

    def render(seconds: float) -> str:
        window = duration(seconds)
        runs = f"sum by ({PAIR}) (increase(ollama_probe_failures_total[{window}]))"
        by_reason = f"sum by ({PAIR}, reason) (increase(ollama_probe_failures_total[{window}]))"
        share = f"{by_reason} / on ({PAIR}) group_left () ({runs} >= 2.5) > 0.5"
        failing = f"max by ({PAIR}) (max_over_time(ollama_probe_success[{window}])) == 0"
        mixed = f'label_replace({runs} >= 2.5, "reason", "mixed", "", "")'
        return f"(\n  {share}\n  or on ({PAIR}) {mixed}\n)\nand on ({PAIR}) ({failing})"

    yield record("ollama_probe:failing:share", on_ladder(clock, render, steps.failing_window))


def suspects(clock: Clock) -> Iterator[Rule]:
    """Every cause that holds now, with its rank as value, and the first of them.

    A state counts by how far it rose over the pair's own norm. The norm ends some hours ago, and a pair too young to
    have one is taken at its word. Contention and the power cap, which neighbours bring about, are judged over a long
    window, or one neighbour would name the cause of a drop that is none of his. A low clock is a cause of its own
    only where neither a power cap nor contention explains it.
    """
    long = f'{STATE}:long{{state="{Cause.POWER_CAP}"}}'
    recent = f"last_over_time({STATE}:recent[{clock.window(steps.STATE_MEMORY)}])"
    contended = f'{STATE}:long{{state="{CONTENDED}"}} > {steps.CONTENDED_SHARE:g}'
    yield record(f"{STATE}:rise", f"{recent} - {latest(f'{STATE}:norm', clock)}\nor {recent}")
    for cause, state in STATES.items():
        expr = f'{STATE}:rise{{state="{cause}"}} > {state.rise:g}'
        if cause is Cause.POWER_CAP:
            expr = f"({long} - {latest(f'{STATE}:norm', clock)} or {long}) > {state.rise:g}"
        if cause is Cause.CLOCK_LOW:
            capped = f'{STATE}:rise{{state="{Cause.POWER_CAP}"}} > {steps.CAP_EXPLAINS_CLOCK:g}'
            expr = f"{expr}\nunless on ({PAIR}) ({capped})\nunless on ({PAIR}) ({contended})"
        yield suspect(cause, expr)
    yield suspect(Cause.CONTENDED, contended)
    for cause in (Cause.WORKLOAD_CHANGED, Cause.VERSION_CHANGED, Cause.DIGEST_CHANGED, Cause.DRIVER_CHANGED):
        yield suspect(cause, latest("ollama_probe:identity:moved", clock, change=cause))
    yield suspect(Cause.NONE_VISIBLE, f"{RATE}:reference")
    yield record("ollama_probe:suspect:first", f"bottomk by ({PAIR}) (1, ollama_probe:suspect:rank)")


def suspect(cause: Cause, expr: str) -> Rule:
    """One suspect's rule."""
    return record("ollama_probe:suspect:rank", f"max by ({PAIR}) (\n{expr}\n) * 0 + {RANK[cause]}", cause=cause)


@dataclass(frozen=True, slots=True)
class Level:
    """When a drop begins and when it ends: expressions by pair, of which never both hold."""

    name: str
    fires: str
    clears: str


def levels(clock: Clock) -> tuple[Level, ...]:
    """The levels of a drop, the most urgent first. Each clears at a higher rate than it fires at.

    Sudden: three slow runs where the GPU's state explains them, many where nothing does. The others are quantiles
    that neighbours cannot move.
    """
    ratio = f"{RATE}:ratio"
    evidence = "\nor ".join(
        f'(ollama_probe:suspect:rank{{cause="{cause}"}} '
        f'and on ({PAIR}) {STATE}:rise{{state="{cause}"}} > {state.evidence:g})'
        for cause, state in STATES.items()
        if state.evidence
    )
    quartile, day, six_hours = (latest(f"{ratio}_{name}", clock) for name in ("q75_12h", "median_24h", "median_6h"))
    two_days = latest(f"{ratio}_median_48h", clock)
    recovered = f"{six_hours} > {steps.DEGRADED_RECOVERED:g}"
    return (
        Level(
            "sudden",
            f"{ratio}_best_recent < {steps.SUDDEN_FIRES:g} and on ({PAIR}) (\n{evidence}\n)\n"
            f"or {ratio}_best_long < {steps.SUDDEN_FIRES:g}",
            f"{ratio}_recent > {steps.SUDDEN_CLEARS:g} and {ratio}_best_recent > {steps.SUDDEN_CLEARS:g}",
        ),
        Level("deep", f"{quartile} < {steps.DEEP_FIRES:g}", f"{quartile} > {steps.DEEP_CLEARS:g}"),
        Level(
            "degraded",
            f"{quartile} < {steps.DEGRADED_FIRES:g}\nor ({day} < {steps.DEGRADED_DAY_FIRES:g} unless {recovered})",
            f"{quartile} > {steps.DEGRADED_CLEARS:g} and {day} > {steps.DEGRADED_DAY_CLEARS:g}\nor {recovered}",
        ),
        Level("small", f"{two_days} < {steps.SMALL_FIRES:g}", f"{two_days} > {steps.SMALL_CLEARS:g}"),
    )


def drop(level: Level, clock: Clock) -> Rule:
    """What fires on one level, latched with its cause.

    A record that carries itself: it begins where its level fires, with the cause of that moment, and stays until the
    level clears. So a drop as large as the threshold does not flap, a cause that changes its mind does not end one
    alert and begin another, and a page does not resolve because the probe began to fail: no reading, no all-clear. It
    ends with the pair.
    """
    memory = duration(clock.latch_memory)
    hold = clock.window(steps.HOLD_WITHOUT_READINGS)
    return record(
        DROP,
        f'(topk by ({PAIR}) (1, last_over_time({DROP}{{level="{level.name}"}}[{memory}]))\n'
        f"unless on ({PAIR}) (\n{level.clears}\n)\n"
        f"and on ({PAIR}) max by ({PAIR}) (last_over_time(ollama_probe_interval_seconds[{hold}])))\n"
        f"or on ({PAIR})\n"
        f"(\n{level.fires}\n) * on ({PAIR}) group_left (cause) (ollama_probe:suspect:first * 0 + 1)",
        level=level.name,
    )


def cause(clock: Clock) -> Rule:
    """One cause for each pair that alerts or visibly drops: what the page says, else what is first suspected now."""
    latched = f"\nor on ({PAIR}) ".join(
        f'max by ({PAIR}, cause) ({DROP}{{level="{level.name}"}})' for level in levels(clock)
    )
    contended = latest("ollama_probe:always_contended:measured_ratio", clock)
    visible = f"{RATE}:ratio_recent < {steps.VISIBLE_DROP:g}"
    return record(
        CAUSE,
        f"(\n{latched}\n"
        f'or on ({PAIR}) label_replace(max by ({PAIR}) ({contended}), "cause", "{Cause.CONTENDED}", "", "")\n'
        f"or on ({PAIR}) (max by ({PAIR}, cause) (ollama_probe:suspect:first) and on ({PAIR}) ({visible}))\n"
        ") * 0 + 1",
    )


def baseline(clock: Clock) -> Iterator[Rule]:
    """The pair's own normal, by workload.

    Not a median of the last week: that takes a lasting drop for the normal in half a week. The median of two clean
    days takes over only where it is higher than the normal held so far, which sinks by a half per mille a day.
    Restarts, failed and contended weeks leave gaps and low candidates, which change nothing. It is not begun anew by
    a new digest, version or driver, which would hide the regression they bring; a new workload begins one, and an old
    one that returns finds its own. It follows the workload in use, or else it would carry itself on for ever.
    """
    by_workload, candidate, own = (f"{RATE}:{name}" for name in ("by_workload", "candidate", "own"))
    workload = f"max by ({PAIR}, hash) (ollama_probe_workload_info)"
    yield record(by_workload, f"{workload} * on ({PAIR}) group_left () {RATE}:usable")

    def median(window: float) -> str:
        minimum = window * steps.OWN_MINIMUM / steps.OWN_WINDOW
        return (
            f"quantile_over_time(0.5, {by_workload}[{duration(window)}])\n"
            f"and count_over_time({by_workload}[{duration(window)}]) >= {minimum / clock.slow_step:g}"
        )

    yield record(candidate, on_ladder(clock, median, at_least_runs(24, steps.OWN_WINDOW)))
    decay = 1 - steps.OWN_DECAY_PER_DAY * clock.slow_step / clock.scale / steps.DAY
    held = f"last_over_time({own}[{clock.window(steps.OWN_MEMORY)}]) * {decay!r}"
    yield record(own, f"(\n{candidate} > ({held})\nor {held}\nor {candidate}\n)\nand on ({PAIR}, hash) {workload}")


def slow_levels(clock: Clock) -> Iterator[Rule]:
    """Quantiles of half a day and more, which pass over neighbours, and need half of their window filled."""
    ratio = f"{RATE}:ratio"

    def quantile(share: str, series: str) -> Any:
        def render(seconds: float) -> str:
            window = f"[{duration(seconds)}:{duration(clock.slow_step)}]"
            return (
                f"quantile_over_time({share}, {series}{window})\n"
                f"and count_over_time({series}{window}) >= {seconds / clock.slow_step / 2:g}"
            )

        return render

    for name, share, hours, runs in (
        ("q75_12h", "0.75", 12, 4),
        ("median_6h", "0.5", 6, 3),
        ("median_24h", "0.5", 24, 6),
        ("median_48h", "0.5", 48, 10),
    ):
        expr = on_ladder(clock, quantile(share, ratio), at_least_runs(runs, hours * steps.HOUR))
        yield record(f"{ratio}_{name}", expr)

    def contended(seconds: float) -> str:
        window = f"[{duration(seconds)}:{duration(clock.slow_step)}]"
        marked = f'avg_over_time({STATE}:latest{{state="{CONTENDED}"}}{window})'
        return (
            f"{quantile('0.5', f'{RATE}:measured_ratio')(seconds)}\n"
            f"and on ({PAIR}) ({marked} > {steps.ALWAYS_CONTENDED_SHARE:g})"
        )

    expr = on_ladder(clock, contended, at_least_runs(4, 12 * steps.HOUR))
    yield record("ollama_probe:always_contended:measured_ratio", f"(\n{expr}\n) < {steps.ALWAYS_CONTENDED_FIRES:g}")


def norms(clock: Clock) -> Iterator[Rule]:
    """What is usual for each state of a pair."""
    window = (
        f"[{clock.window(steps.NORM_WINDOW)}:{clock.window(3 * steps.HOUR)}] offset {clock.window(steps.NORM_DELAY)}"
    )
    unwanted = f"{CONTENDED}|{TRUNCATED}|{DEGENERATE}"
    yield record(f"{STATE}:norm", f'quantile_over_time(0.5, {STATE}:latest{{state!~"{unwanted}"}}{window})')


def changes(clock: Clock) -> Iterator[Rule]:
    """What changed under the pair and took the rate with it.

    The rate is recorded under each value of what may change. A value that is gone, with a median rate that the
    present value's does not reach: that change counts. A new version at the old speed does not, nor one long before
    the drop.
    """
    name = "ollama_probe:identity:rate"
    for change, kind, labels, info in CHANGES:
        by_value = f"max by ({PAIR}, {', '.join(labels)}) (\n{info}\n)"
        yield identity(f"{by_value}\n* on ({PAIR}) group_left () {RATE}:usable", change, kind, labels)
    # Of the server, not of the pair. topk: two versions seen within one lookback must not be an error for all pairs.
    version = "topk by (job, target) (1, max by (job, target, version) (ollama_probe_server_info))"
    rate = f"{RATE}:usable * on (job, target) group_left (version) {version}"
    yield identity(rate, Cause.VERSION_CHANGED, "version", ("version",))
    window = f"[{clock.window(steps.CHANGE_WINDOW)}:{clock.window(steps.HOUR)}]"
    yield record("ollama_probe:identity:median_rate", f"quantile_over_time(0.5, {name}{window})")

    def moved(seconds: float) -> str:
        median, present = "ollama_probe:identity:median_rate", f"last_over_time({name}[{duration(seconds)}])"
        return (
            f"max by ({PAIR}, change, kind) ({median} and {present})\n"
            f"/ max by ({PAIR}, change, kind) ({median} unless {present}) < {steps.CHANGE_MOVED:g}"
        )

    expr = on_ladder(clock, moved, steps.change_presence)
    yield record("ollama_probe:identity:moved", f"min by ({PAIR}, change) (\n{expr}\n)")


def identity(expr: str, change: Cause, kind: str, values: Sequence[str]) -> Rule:
    """The rate under each value of one thing that may change, its labels folded into `value`."""
    folded = ", ".join(f'"{label}"' for label in values)
    joined = f'label_join(\n{expr}\n, "value", "/", {folded})'
    return record("ollama_probe:identity:rate", f"max by ({PAIR}, value) (\n{joined}\n)", change=change, kind=kind)
