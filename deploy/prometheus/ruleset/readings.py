"""Recording rules that follow single readings: rates, states, windows of the last runs, and failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ruleset import intervals
from ruleset.causes import STATE_CAUSES, Cause
from ruleset.intervals import MODEL_KEY, Clock, format_duration, per_interval_range
from ruleset.recording import CONTENDED, DEGENERATE, FAILING, RATE, STATE, TRUNCATED, Rule, last_slow, record


def rates(clock: Clock) -> Iterator[Rule]:
    """Yield the usable rate, the reference rate, and their ratio, on which all levels are based.

    Readings contended by other work on the GPU are not usable: they measure the other work. Readings that only waited
    in the queue are, because waiting does not change the decode rate. A configured expected rate takes precedence over
    the baseline, which is read for the current workload only: another prompt has another rate.
    """
    yield record(
        f"{RATE}:usable",
        f"max by ({MODEL_KEY}) (ollama_probe_decode_tokens_per_second)\n"
        f'unless on ({MODEL_KEY}) (max by ({MODEL_KEY}) (ollama_probe_contended{{by=~"gpu|model"}}) == 1)',
    )
    yield record(
        f"{RATE}:reference",
        f"max by ({MODEL_KEY}) (ollama_probe_expected_decode_tokens_per_second)\n"
        f"or max by ({MODEL_KEY}) (\n"
        f"  {last_slow(f'{RATE}:own', clock)}\n"
        f"  and on ({MODEL_KEY}, hash) max by ({MODEL_KEY}, hash) (ollama_probe_workload_info)\n)",
    )
    yield record(f"{RATE}:ratio", f"{RATE}:usable / {RATE}:reference")
    yield record(
        f"{RATE}:measured_ratio", f"max by ({MODEL_KEY}) (ollama_probe_decode_tokens_per_second) / {RATE}:reference"
    )


def states() -> Iterator[Rule]:
    """Yield the states of the last reading, shares from 0 to 1, as one metric so that one rule averages them all."""
    for cause, state in STATE_CAUSES.items():
        yield record(f"{STATE}:latest", state.expr, state=cause)
    yield record(
        f"{STATE}:latest", f'max by ({MODEL_KEY}) (ollama_probe_contended{{by=~"gpu|model"}})', state=CONTENDED
    )
    yield record(f"{STATE}:latest", f"max by ({MODEL_KEY}) (ollama_probe_truncated)", state=TRUNCATED)
    yield record(f"{STATE}:latest", f"1 - min by ({MODEL_KEY}) (ollama_probe_distinct_chunks_ratio)", state=DEGENERATE)


def covered(function: str, series: str, clock: Clock) -> Callable[[float, float], str]:
    """Return a function of window and minimum coverage, in seconds, that renders `function` over such a window."""

    def render(seconds: float, minimum: float) -> str:
        window = f"{series}[{format_duration(seconds)}]"
        return f"{function}({window})\nand count_over_time({window}) >= {clock.samples(minimum):g}"

    return render


def windows(clock: Clock) -> Iterator[Rule]:
    """Yield aggregates over the last runs.

    `best_recent` is low only if three clean runs were all slow, so a single bad run has no effect; `best_long` is the
    same over the window of an unexplained drop. `recent` is the present value, across failed and contended runs.
    """
    ratio, best = f"{RATE}:ratio", "max_over_time"
    states, fast = covered("avg_over_time", f"{STATE}:latest", clock), covered(best, ratio, clock)
    no_evidence = (intervals.no_evidence_window, intervals.no_evidence_clean)
    yield record(
        f"{STATE}:recent",
        per_interval_range(clock, states, intervals.three_runs_window, intervals.three_runs_known),
    )
    three_runs = (intervals.three_runs_window, intervals.three_runs_clean, intervals.five_runs_window)
    yield record(
        f"{ratio}_best_recent",
        per_interval_range(
            clock, lambda window, clean, wide: f"{fast(window, clean)}\nor {fast(wide, clean)}", *three_runs
        ),
    )
    yield record(f"{ratio}_best_long", per_interval_range(clock, fast, *no_evidence))
    yield record(
        f"{ratio}_recent",
        per_interval_range(
            clock,
            lambda window: f"quantile_over_time(0.5, {ratio}[{format_duration(window)}])",
            intervals.recent_window,
        ),
    )
    shared = f'{STATE}:latest{{state=~"{CONTENDED}|{Cause.POWER_CAP}"}}'
    yield record(
        f"{STATE}:long",
        per_interval_range(
            clock, lambda window: f"avg_over_time({shared}[{format_duration(window)}])", intervals.no_evidence_window
        ),
    )


def failures(clock: Clock) -> Iterator[Rule]:
    """Yield the models whose last three runs failed, with the reason of most of them, else `mixed`.

    The counters are needed because a scrape repeats `success`: two chance failures must not raise an alert. The label
    is the reason of the majority, not of the last failure, because a changed label is another alert.
    """

    def render(seconds: float) -> str:
        window = format_duration(seconds)
        runs = f"sum by ({MODEL_KEY}) (increase(ollama_probe_failures_total[{window}]))"
        by_reason = f"sum by ({MODEL_KEY}, reason) (increase(ollama_probe_failures_total[{window}]))"
        share = f"{by_reason} / on ({MODEL_KEY}) group_left () ({runs} >= 2.5) > 0.5"
        failing = f"max by ({MODEL_KEY}) (max_over_time(ollama_probe_success[{window}])) == 0"
        mixed = f'label_replace({runs} >= 2.5, "reason", "mixed", "", "")'
        return f"(\n  {share}\n  or on ({MODEL_KEY}) {mixed}\n)\nand on ({MODEL_KEY}) ({failing})"

    yield record(FAILING, per_interval_range(clock, render, intervals.failing_window))
