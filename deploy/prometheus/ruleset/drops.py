"""Recording rules that decide whether a model's rate has dropped, on which level, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ruleset import thresholds
from ruleset.causes import RANK, STATE_CAUSES, Cause
from ruleset.intervals import MODEL_KEY, Clock, format_duration
from ruleset.recording import (
    ALWAYS_CONTENDED,
    CAUSE,
    CONTENDED,
    DROP,
    IDENTITY,
    RATE,
    STATE,
    SUSPECT,
    Rule,
    last_slow,
    record,
)


def suspects(clock: Clock) -> Iterator[Rule]:
    """Yield every cause that holds now, its rank as value, and the first of them.

    A state counts by its rise over its norm. The norm's window ends some hours ago; without a norm the state itself
    counts. Contention and the power cap, which other work brings about, are averaged over a long window, so that a
    single session of other work is not the cause of a longer drop. A low clock is a cause only where neither the power
    cap nor contention explains it.
    """
    long = f'{STATE}:long{{state="{Cause.POWER_CAP}"}}'
    recent = f"last_over_time({STATE}:recent[{clock.window(thresholds.STATE_MEMORY)}])"
    contended = f'{STATE}:long{{state="{CONTENDED}"}} > {thresholds.CONTENDED_SHARE:g}'
    yield record(f"{STATE}:rise", f"{recent} - {last_slow(f'{STATE}:norm', clock)}\nor {recent}")
    for cause, state in STATE_CAUSES.items():
        expr = f'{STATE}:rise{{state="{cause}"}} > {state.rise:g}'
        if cause is Cause.POWER_CAP:
            expr = f"({long} - {last_slow(f'{STATE}:norm', clock)} or {long}) > {state.rise:g}"
        if cause is Cause.CLOCK_LOW:
            capped = f'{STATE}:rise{{state="{Cause.POWER_CAP}"}} > {thresholds.CAP_EXPLAINS_CLOCK:g}'
            expr = f"{expr}\nunless on ({MODEL_KEY}) ({capped})\nunless on ({MODEL_KEY}) ({contended})"
        yield suspect(cause, expr)
    yield suspect(Cause.CONTENDED, contended)
    for cause in (Cause.WORKLOAD_CHANGED, Cause.VERSION_CHANGED, Cause.DIGEST_CHANGED, Cause.DRIVER_CHANGED):
        yield suspect(cause, last_slow(f"{IDENTITY}:moved", clock, change=cause))
    yield suspect(Cause.NONE_VISIBLE, f"{RATE}:reference")
    yield record(f"{SUSPECT}:first", f"bottomk by ({MODEL_KEY}) (1, {SUSPECT}:rank)")


def suspect(cause: Cause, expr: str) -> Rule:
    """Return the rule of one cause, which holds where `expr` has a value."""
    return record(f"{SUSPECT}:rank", f"max by ({MODEL_KEY}) (\n{expr}\n) * 0 + {RANK[cause]}", cause=cause)


@dataclass(frozen=True, slots=True)
class Level:
    """When a drop begins and ends: expressions by model that never hold both."""

    name: str
    fires: str
    clears: str


def levels(clock: Clock) -> tuple[Level, ...]:
    """Return the levels of a drop, the most severe first. Each clears at a higher rate than it fires at.

    `sudden` needs three slow runs where the state of the GPU explains them, and a long window where it does not. The
    others are quantiles of 12 hours and more, which sessions of other work do not move.
    """
    ratio = f"{RATE}:ratio"
    evidence = "\nor ".join(
        f'({SUSPECT}:rank{{cause="{cause}"}} and on ({MODEL_KEY}) {STATE}:rise{{state="{cause}"}} > {state.evidence:g})'
        for cause, state in STATE_CAUSES.items()
        if state.evidence
    )
    quartile, day, six_hours = (last_slow(f"{ratio}_{name}", clock) for name in ("q75_12h", "median_24h", "median_6h"))
    two_days = last_slow(f"{ratio}_median_48h", clock)
    recovered = f"{six_hours} > {thresholds.DEGRADED_RECOVERED:g}"
    return (
        Level(
            "sudden",
            f"{ratio}_best_recent < {thresholds.SUDDEN_FIRES:g} and on ({MODEL_KEY}) (\n{evidence}\n)\n"
            f"or {ratio}_best_long < {thresholds.SUDDEN_FIRES:g}",
            f"{ratio}_recent > {thresholds.SUDDEN_CLEARS:g} and {ratio}_best_recent > {thresholds.SUDDEN_CLEARS:g}",
        ),
        Level("deep", f"{quartile} < {thresholds.DEEP_FIRES:g}", f"{quartile} > {thresholds.DEEP_CLEARS:g}"),
        Level(
            "degraded",
            f"{quartile} < {thresholds.DEGRADED_FIRES:g}\n"
            f"or ({day} < {thresholds.DEGRADED_DAY_FIRES:g} unless {recovered})",
            f"{quartile} > {thresholds.DEGRADED_CLEARS:g} and {day} > {thresholds.DEGRADED_DAY_CLEARS:g}\n"
            f"or {recovered}",
        ),
        Level("small", f"{two_days} < {thresholds.SMALL_FIRES:g}", f"{two_days} > {thresholds.SMALL_CLEARS:g}"),
    )


def drop(level: Level, clock: Clock) -> Rule:
    """Return the rule of one level, latched with its cause.

    The record reads itself: it begins where its level fires, with the cause of that moment, and lasts until the level
    clears. So a drop as large as the threshold does not flap, a cause that changes does not end one alert and begin
    another, and a page does not resolve because probes began to fail. It ends with the model's last scrape.
    """
    memory = format_duration(clock.latch_memory)
    hold = clock.window(thresholds.HOLD_WITHOUT_READINGS)
    return record(
        DROP,
        f'(topk by ({MODEL_KEY}) (1, last_over_time({DROP}{{level="{level.name}"}}[{memory}]))\n'
        f"unless on ({MODEL_KEY}) (\n{level.clears}\n)\n"
        f"and on ({MODEL_KEY}) max by ({MODEL_KEY}) (last_over_time(ollama_probe_interval_seconds[{hold}])))\n"
        f"or on ({MODEL_KEY})\n"
        f"(\n{level.fires}\n) * on ({MODEL_KEY}) group_left (cause) ({SUSPECT}:first * 0 + 1)",
        level=level.name,
    )


def current_cause(clock: Clock) -> Rule:
    """Return the rule of one cause per model: that of its alert, else the first suspect while the drop is visible."""
    latched = f"\nor on ({MODEL_KEY}) ".join(
        f'max by ({MODEL_KEY}, cause) ({DROP}{{level="{level.name}"}})' for level in levels(clock)
    )
    contended = last_slow(ALWAYS_CONTENDED, clock)
    visible = f"{RATE}:ratio_recent < {thresholds.VISIBLE_DROP:g}"
    return record(
        CAUSE,
        f"(\n{latched}\n"
        f'or on ({MODEL_KEY}) label_replace(max by ({MODEL_KEY}) ({contended}), "cause", "{Cause.CONTENDED}", "", "")\n'
        f"or on ({MODEL_KEY}) (max by ({MODEL_KEY}, cause) ({SUSPECT}:first) and on ({MODEL_KEY}) ({visible}))\n"
        ") * 0 + 1",
    )
