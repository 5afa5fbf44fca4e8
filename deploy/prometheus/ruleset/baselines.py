"""Recording rules over hours and days: the baseline, quantiles of the ratio, usual states, and changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ruleset import intervals, thresholds
from ruleset.causes import Cause
from ruleset.intervals import MODEL_KEY, Clock, at_least_runs, format_duration, per_interval_range
from ruleset.recording import (
    ALWAYS_CONTENDED,
    CONTENDED,
    DEGENERATE,
    IDENTITY,
    RATE,
    STATE,
    TRUNCATED,
    UNMEASURED,
    Rule,
    record,
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Something that may change under a model's rate."""

    cause: Cause
    kind: str
    labels: tuple[str, ...]
    """The labels whose values identify it."""
    info: str
    """An info metric with these labels and the value 1."""


IDENTITIES = (
    Identity(Cause.WORKLOAD_CHANGED, "workload", ("hash",), "ollama_probe_workload_info"),
    Identity(Cause.DIGEST_CHANGED, "model", ("digest", "quantization"), "ollama_probe_model_info"),
    Identity(
        Cause.DRIVER_CHANGED,
        "driver",
        ("uuid", "driver_version"),
        "ollama_probe_model_gpu_info\n* on (job, instance, uuid) group_left (driver_version) ollama_probe_gpu_info",
    ),
    Identity(
        Cause.DRIVER_CHANGED, "card", ("gpu",), 'ollama_probe_decode_tokens_per_second{gpu!~"cpu|unknown"} * 0 + 1'
    ),
)


def baseline(clock: Clock) -> Iterator[Rule]:
    """Yield the baseline (`:own`) of each model and workload.

    It is the highest median of two clean days, decaying by `BASELINE_DECAY_PER_DAY`. A plain median of the last week
    would adopt a lasting drop within half a week. Restarts and failed or contended weeks leave gaps and low candidates,
    which have no effect. A new digest, version or driver does not start a new baseline, because that would hide the
    regression it brings; a new workload does, and a workload that returns finds its former baseline. The record exists
    only for the workload in use, otherwise it would carry itself forward for ever.
    """
    by_workload, candidate, own = (f"{RATE}:{name}" for name in ("by_workload", "candidate", "own"))
    workload = f"max by ({MODEL_KEY}, hash) (ollama_probe_workload_info)"
    yield record(by_workload, f"{workload} * on ({MODEL_KEY}) group_left () {RATE}:usable")

    def median(window: float) -> str:
        minimum = window * thresholds.BASELINE_MINIMUM / thresholds.BASELINE_WINDOW
        return (
            f"quantile_over_time(0.5, {by_workload}[{format_duration(window)}])\n"
            f"and count_over_time({by_workload}[{format_duration(window)}]) >= {minimum / clock.slow_sampling:g}"
        )

    yield record(candidate, per_interval_range(clock, median, at_least_runs(24, thresholds.BASELINE_WINDOW)))
    decay = 1 - thresholds.BASELINE_DECAY_PER_DAY * clock.slow_interval / clock.scale / thresholds.DAY
    held = f"last_over_time({own}[{clock.window(thresholds.BASELINE_MEMORY)}]) * {decay!r}"
    yield record(own, f"(\n{candidate} > ({held})\nor {held}\nor {candidate}\n)\nand on ({MODEL_KEY}, hash) {workload}")


def quantiles(clock: Clock) -> Iterator[Rule]:
    """Yield quantiles of the ratio over 6 hours and more, at least half of which must hold clean readings."""
    ratio = f"{RATE}:ratio"
    for name, share, hours, runs in (
        ("q75_12h", "0.75", 12, 4),
        ("median_6h", "0.5", 6, 3),
        ("median_24h", "0.5", 24, 6),
        ("median_48h", "0.5", 48, 10),
    ):
        window = at_least_runs(runs, hours * thresholds.HOUR)
        yield record(f"{ratio}_{name}", per_interval_range(clock, quantile(share, ratio, clock), window))


def quantile(share: str, series: str, clock: Clock) -> Callable[[float], str]:
    """Return a function of a window in seconds that renders a quantile over it, sampled at the slow interval."""

    def render(seconds: float) -> str:
        window = f"[{format_duration(seconds)}:{format_duration(clock.slow_sampling)}]"
        return (
            f"quantile_over_time({share}, {series}{window})\n"
            f"and count_over_time({series}{window}) >= {seconds / clock.slow_sampling / 2:g}"
        )

    return render


def always_contended(clock: Clock) -> Rule:
    """Return the rule of models whose readings are nearly all contended and slow: the median ratio of all of them."""
    median = quantile("0.5", f"{RATE}:measured_ratio", clock)

    def render(seconds: float) -> str:
        window = f"[{format_duration(seconds)}:{format_duration(clock.slow_sampling)}]"
        marked = f'avg_over_time({STATE}:latest{{state="{CONTENDED}"}}{window})'
        return f"{median(seconds)}\nand on ({MODEL_KEY}) ({marked} > {thresholds.ALWAYS_CONTENDED_SHARE:g})"

    expr = per_interval_range(clock, render, at_least_runs(4, 12 * thresholds.HOUR))
    return record(ALWAYS_CONTENDED, f"(\n{expr}\n) < {thresholds.ALWAYS_CONTENDED_FIRES:g}")


def unmeasured(clock: Clock) -> Rule:
    """Return the rule of models that were skipped for a day and not measured: how often, by reason.

    A model counts if it was configured a day ago, none of its probes succeeded since then, and more were skipped than
    run: probes that fail have their own alerts. The time of the last success is used, and not a counter, because a
    restart resets counters. At intervals above 6 hours a day holds too few due times.
    """
    day = clock.window(thresholds.DAY)
    skipped, runs = (f"increase(ollama_probe_{name}_total[{day}])" for name in ("skipped", "runs"))
    last_success = f"max_over_time(ollama_probe_last_success_timestamp_seconds[{day}])"
    interval_max = max(interval.high for interval in clock.ranges)
    return record(
        UNMEASURED,
        f"sum by ({MODEL_KEY}, reason) ({skipped}) > 0\n"
        f"and on ({MODEL_KEY}) (sum by ({MODEL_KEY}) ({skipped}) > sum by ({MODEL_KEY}) ({runs}))\n"
        f"and on ({MODEL_KEY}) max by ({MODEL_KEY}) (ollama_probe_interval_seconds offset {day} <= {interval_max:g})\n"
        f"unless on ({MODEL_KEY}) (max by ({MODEL_KEY}) ({last_success}) > time() - {clock.scaled(thresholds.DAY):g})",
    )


def norms(clock: Clock) -> Rule:
    """Return the rule of the usual value of each state of a model."""
    length, step = clock.window(thresholds.NORM_WINDOW), clock.window(3 * thresholds.HOUR)
    window = f"[{length}:{step}] offset {clock.window(thresholds.NORM_DELAY)}"
    excluded = f"{CONTENDED}|{TRUNCATED}|{DEGENERATE}"
    return record(f"{STATE}:norm", f'quantile_over_time(0.5, {STATE}:latest{{state!~"{excluded}"}}{window})')


def changes(clock: Clock) -> Iterator[Rule]:
    """Yield what changed under a model together with its rate.

    The rate is recorded under each value of what may change. A change counts if the median rate under a former value is
    higher than the one under the current value: not a new version at the same speed, nor a change long before the drop.
    """
    name = f"{IDENTITY}:rate"
    for identity in IDENTITIES:
        by_value = f"max by ({MODEL_KEY}, {', '.join(identity.labels)}) (\n{identity.info}\n)"
        rate = f"{by_value}\n* on ({MODEL_KEY}) group_left () {RATE}:usable"
        yield rate_by_value(rate, identity.cause, identity.kind, identity.labels)
    # The version belongs to the server, not to the model. topk: two versions within one lookback must not be an error
    # for all models.
    version = "topk by (job, target) (1, max by (job, target, version) (ollama_probe_server_info))"
    rate = f"{RATE}:usable * on (job, target) group_left (version) {version}"
    yield rate_by_value(rate, Cause.VERSION_CHANGED, "version", ("version",))
    window = f"[{clock.window(thresholds.CHANGE_WINDOW)}:{clock.window(thresholds.HOUR)}]"
    yield record(f"{IDENTITY}:median_rate", f"quantile_over_time(0.5, {name}{window})")

    def moved(seconds: float) -> str:
        median, current = f"{IDENTITY}:median_rate", f"last_over_time({name}[{format_duration(seconds)}])"
        return (
            f"max by ({MODEL_KEY}, change, kind) ({median} and {current})\n"
            f"/ max by ({MODEL_KEY}, change, kind) ({median} unless {current}) < {thresholds.CHANGE_MOVED:g}"
        )

    expr = per_interval_range(clock, moved, intervals.change_presence)
    yield record(f"{IDENTITY}:moved", f"min by ({MODEL_KEY}, change) (\n{expr}\n)")


def rate_by_value(expr: str, change: Cause, kind: str, labels: tuple[str, ...]) -> Rule:
    """Return the rule of the rate under each value of an identity, whose labels are joined into `value`."""
    joined_labels = ", ".join(f'"{label}"' for label in labels)
    joined = f'label_join(\n{expr}\n, "value", "/", {joined_labels})'
    return record(f"{IDENTITY}:rate", f"max by ({MODEL_KEY}, value) (\n{joined}\n)", change=change, kind=kind)
