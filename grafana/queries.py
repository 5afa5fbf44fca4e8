"""PromQL in the words of the boards: every selector is held to the variables that a reader may set."""

from __future__ import annotations

EXPORTER = 'job=~"$job",instance=~"$instance"'
TARGET = f'{EXPORTER},target=~"$target"'
PAIR = f'{TARGET},model=~"$model"'
READING = f'{PAIR},gpu=~"$gpu"'
ON_PAIR = "on (job, instance, target, model)"
RECORD_KEY = "job, target, model"
"""What the rules group by: an exporter's instance and the GPU are not part of a pair's identity."""

DECODE = f"ollama_probe_decode_tokens_per_second{{{READING}}}"


def reading(name: str, extra: str = "") -> str:
    """Return the selector of a reading's gauge; `extra` is further matchers."""
    return f"ollama_probe_{name}{{{READING}{',' if extra else ''}{extra}}}"


def of_gpu(expression: str) -> str:
    """Return an expression over pairs without those whose reading is on a GPU that is not chosen.

    A pair without a reading (failing, or new) has no `gpu` label and stays: it must not vanish from the boards.
    """
    elsewhere = f'ollama_probe_decode_tokens_per_second{{{PAIR},gpu!~"$gpu"}}'
    return f"({expression} unless {ON_PAIR} {elsewhere})"


def status(name: str, extra: str = "") -> str:
    """Return the selector of a status metric, which is there for every pair."""
    return of_gpu(f"ollama_probe_{name}{{{PAIR}{',' if extra else ''}{extra}}}")


def increase(name: str, window: str = "$__range", extra: str = "") -> str:
    """Return how much a pair's counter grew. Counters step once per probe, so the window must hold several probes."""
    return of_gpu(f"increase(ollama_probe_{name}{{{PAIR}{',' if extra else ''}{extra}}}[{window}])")


def record(name: str, extra: str = "") -> str:
    """Return a series of the recording rules, which know neither `instance` nor `gpu`: those filter by `and`."""
    matchers = f'job=~"$job",target=~"$target",model=~"$model"{"," if extra else ""}{extra}'
    return f"({name}{{{matchers}}} and on ({RECORD_KEY}) {status('interval_seconds')})"


def short(expression: str) -> str:
    """Return an expression whose label `gpu` is a card's name without its maker's and its family's."""
    return f'label_replace({expression}, "gpu", "$1", "gpu", "NVIDIA (?:GeForce )?(.+)")'


def normal() -> str:
    """Return a pair's own normal rate: from the rules, else as configured, else its median over a week."""
    return (
        f"(max by ({RECORD_KEY}) ({record('ollama_probe:decode_tokens_per_second:reference')})"
        f" or max by ({RECORD_KEY}) ({status('expected_decode_tokens_per_second')})"
        f" or quantile_over_time(0.5, max by ({RECORD_KEY}) ({DECODE})[7d:15m]))"
    )


def if_one_pair(expression: str) -> str:
    """Return an expression that is empty unless one pair alone is chosen: bands of several would cover each other."""
    return f"{expression} and on () (count(count by ({RECORD_KEY}) ({status('interval_seconds')})) == 1)"


def changed(name: str, matchers: str, identity: str, label: str) -> str:
    """Return 1 for five minutes after an info series' label took a value that it had not in the hour before."""
    now, before = f"{name}{{{matchers}}}", f"last_over_time({name}{{{matchers}}}[1h] offset 5m)"
    return f"({now} unless on ({identity}, {label}) {before}) and on ({identity}) {before}"


def ranked(by: str, rank: int, over: str) -> str:
    """Return the `rank`-th largest mean of `over` at each point in time, ranked once, by the whole shown range."""
    above = f" unless on ({by}) {_largest(by, rank - 1, over)}" if rank > 1 else ""
    return f"avg by ({by}) ({over}) and on ({by}) ({_largest(by, rank, over)}{above})"


def unranked(by: str, ranks: int, over: str) -> str:
    """Return the means of `over` below the first `ranks`."""
    return f"avg by ({by}) ({over}) unless on ({by}) {_largest(by, ranks, over)}"


def _largest(by: str, count: int, over: str) -> str:
    return f"topk({count}, avg by ({by}) (avg_over_time({over}[$__range] @ end())))"
