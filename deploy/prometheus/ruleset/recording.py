"""Names of recorded series and the expressions that several recording rules share."""

from __future__ import annotations

from typing import Any

from ruleset.intervals import Clock

Rule = dict[str, Any]
"""One rule as Prometheus's rule file writes it, with the key `record` or `alert`."""

RATE = "ollama_probe:decode_tokens_per_second"
STATE = "ollama_probe:state"
DROP = "ollama_probe:drop:active"
CAUSE = "ollama_probe:cause"
ALWAYS_CONTENDED = "ollama_probe:always_contended:measured_ratio"
FAILING = "ollama_probe:failing:share"
UNMEASURED = "ollama_probe:unmeasured:skipped"
IDENTITY = "ollama_probe:identity"
SUSPECT = "ollama_probe:suspect"

CONTENDED, TRUNCATED, DEGENERATE = "contended", "truncated", "degenerate"
"""Values of the label `state` that are not causes by themselves."""


def record(name: str, expr: str, **labels: str) -> Rule:
    """Return a recording rule."""
    return {"record": name, "expr": expr} | ({"labels": labels} if labels else {})


def last_slow(name: str, clock: Clock, **labels: str) -> str:
    """Return the expression by which a fast rule reads the last sample of a slow record."""
    matchers = ", ".join(f'{key}="{value}"' for key, value in labels.items())
    selector = f"{name}{{{matchers}}}" if matchers else name
    return f"last_over_time({selector}[{clock.slow_memory}])"
