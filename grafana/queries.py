"""PromQL expressions; every selector is filtered by the dashboards' variables."""

from __future__ import annotations

EXPORTER = 'job=~"$job",instance=~"$instance"'
TARGET = f'{EXPORTER},target=~"$target"'
MODEL = f'{TARGET},model=~"$model"'
READING = f'{MODEL},gpu=~"$gpu"'
"""The matchers of metrics with the labels of an exporter, a target, a model or a reading."""

ON_MODEL = "on (job, instance, target, model)"
RECORD_KEY = "job, target, model"
"""What the rules group by: the exporter's instance and the GPU are not part of a model's identity."""

DECODE_RATE = f"ollama_probe_decode_tokens_per_second{{{READING}}}"
FIRING_ALERTS = (
    'ALERTS{alertname=~"OllamaProbe.+",alertstate="firing",severity!="info",'
    'job=~"$job|",target=~"$target|",model=~"$model|"}'
)
"""The alerts of an exporter or a target have no label `model`; they match every selection of models."""


def select_reading(metric: str, matchers: str = "") -> str:
    """Return the selector of a gauge of the last reading. `metric` is its name without `ollama_probe_`."""
    return f"ollama_probe_{metric}{{{READING}{',' if matchers else ''}{matchers}}}"


def select_status(metric: str, matchers: str = "") -> str:
    """Return the selector of a status metric, which every model has."""
    return exclude_other_gpus(f"ollama_probe_{metric}{{{MODEL}{',' if matchers else ''}{matchers}}}")


def select_increase(counter: str, window: str = "$__range", matchers: str = "") -> str:
    """Return a counter's increase over `window`.

    Counters change once per probe, so the window must be several probe intervals long.
    """
    return exclude_other_gpus(
        f"increase(ollama_probe_{counter}{{{MODEL}{',' if matchers else ''}{matchers}}}[{window}])"
    )


def select_record(record: str, matchers: str = "") -> str:
    """Return the selector of a recorded series. It has no `instance` and no `gpu`, so a join applies these filters."""
    matchers = f'job=~"$job",target=~"$target",model=~"$model"{"," if matchers else ""}{matchers}'
    return f"({record}{{{matchers}}} and on ({RECORD_KEY}) {select_status('interval_seconds')})"


def exclude_other_gpus(expression: str) -> str:
    """Return `expression` without the models whose last reading is from a GPU that is not selected.

    A model without a reading (a new or failing one) has no label `gpu` and is kept: it must stay visible.
    """
    on_other_gpu = f'ollama_probe_decode_tokens_per_second{{{MODEL},gpu!~"$gpu"}}'
    return f"({expression} unless {ON_MODEL} {on_other_gpu})"


def shorten_gpu(expression: str) -> str:
    """Return `expression` with NVIDIA's brand and product family removed from the label `gpu`."""
    return f'label_replace({expression}, "gpu", "$1", "gpu", "NVIDIA (?:GeForce )?(.+)")'


def select_baseline() -> str:
    """Return the baseline decode rate: the rules' reference, else the expected rate, else the median of one week."""
    return (
        f"(max by ({RECORD_KEY}) ({select_record('ollama_probe:decode_tokens_per_second:reference')})"
        f" or max by ({RECORD_KEY}) ({select_status('expected_decode_tokens_per_second')})"
        f" or quantile_over_time(0.5, max by ({RECORD_KEY}) ({DECODE_RATE})[7d:15m]))"
    )


def require_one_model(expression: str) -> str:
    """Return `expression`, empty unless exactly one model is selected: the bands of several would overlap."""
    return f"{expression} and on () (count(count by ({RECORD_KEY}) ({select_status('interval_seconds')})) == 1)"


def detect_change(metric: str, matchers: str, identity: str, label: str) -> str:
    """Return 1 for five minutes after `label` of an info metric took a value that it did not have in the last hour.

    `identity` are the labels of the thing that changed. Nothing is returned where there was no series before.
    """
    now, before = f"{metric}{{{matchers}}}", f"last_over_time({metric}{{{matchers}}}[1h] offset 5m)"
    return f"({now} unless on ({identity}, {label}) {before}) and on ({identity}) {before}"


def select_rank(by: str, rank: int, expression: str) -> str:
    """Return the series of `expression`, averaged by `by`, whose mean over the whole time range has rank `rank`."""
    higher = f" unless on ({by}) {_select_largest(by, rank - 1, expression)}" if rank > 1 else ""
    return f"avg by ({by}) ({expression}) and on ({by}) ({_select_largest(by, rank, expression)}{higher})"


def select_below_rank(by: str, rank: int, expression: str) -> str:
    """Return the series of `expression`, averaged by `by`, that rank below `rank`."""
    return f"avg by ({by}) ({expression}) unless on ({by}) {_select_largest(by, rank, expression)}"


def _select_largest(by: str, count: int, expression: str) -> str:
    return f"topk({count}, avg by ({by}) (avg_over_time({expression}[$__range] @ end())))"
