"""Causes of a drop and reasons of a failed probe: the query that finds them, and their texts."""

from __future__ import annotations

from collections.abc import Mapping

from colors import GREY, WARNING
from fields import map_values
from grafana_foundation_sdk.models.dashboard import ValueMap
from queries import RECORD_KEY, select_increase, select_record, select_status

CAUSES = {
    "cpu": "runs on the CPU",
    "partial_offload": "partly on the CPU",
    "thermal": "thermal throttling",
    "hw_power_brake": "power brake",
    "hw_slowdown": "hardware slowdown",
    "contended": "shared with other work",
    "power_cap": "power limit",
    "clock_low": "low GPU clock",
    "workload_changed": "workload changed",
    "version_changed": "Ollama changed",
    "digest_changed": "model changed",
    "driver_changed": "driver changed",
    "none_visible": "no cause found",
}
"""The label `cause` of the shipped rules, with the text of each value."""


def map_causes() -> ValueMap:
    """Return the texts and colours of the causes."""
    return map_values(
        {cause: (text, GREY if cause == "none_visible" else WARNING) for cause, text in CAUSES.items()},
    )


def select_cause() -> str:
    """Return 1 with a label `cause` per slow model, and per model whose last probe failed, whose cause is the reason.

    The reason is that of the failures of the last hour, or of the last 13 hours for intervals of up to six hours.
    """
    failing = f"max by ({RECORD_KEY}) ({select_status('success')}) == 0"
    recent, earlier = (
        f"topk by ({RECORD_KEY}) (1, sum by ({RECORD_KEY}, reason) ({select_increase('failures_total', window)}) > 0)"
        for window in ("1h", "13h")
    )
    reason = f"({recent} or on ({RECORD_KEY}) {earlier}) and on ({RECORD_KEY}) ({failing})"
    failed = f'label_replace({reason}, "cause", "probe fails: $1", "reason", "(.+)")'
    slow = select_record("ollama_probe:cause")
    return f"max by ({RECORD_KEY}, cause) ({failed}) or on ({RECORD_KEY}) max by ({RECORD_KEY}, cause) ({slow})"


def list_reasons(texts: Mapping[str, str]) -> str:
    """Return a Markdown list of reasons and their texts."""
    return "\n".join(f"- `{reason}`: {text}" for reason, text in texts.items())
