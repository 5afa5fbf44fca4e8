"""Phases: when within its interval a model is due.

Each model has a fixed phase, a share of its interval that only its own name and its target's decide. It is due whenever
the Unix time modulo the interval is at its phase. So the probes of many targets are spread over the interval, and they
stay where they are at a restart, at a reload and when other targets come or go.

A model that is new is also probed at once, so that it shows up soon; of the models of a starting target only the first
is, within a few seconds. Its next due time is at its phase, but half an interval later at least.
"""

from __future__ import annotations

import hashlib

from exporter.plan import ModelKey

_BITS = 64


def phase_ratio(key: ModelKey) -> float:
    """Return a model's phase as a share of its interval, from 0 to below 1: evenly distributed, and constant."""
    digest = hashlib.sha256("\0".join(key).encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[: _BITS // 8], "big") / float(2**_BITS)


def due_in_seconds(
    key: ModelKey, interval_seconds: float, unix_seconds: float, first_in_seconds: float | None = None
) -> float:
    """Return when a model is next at its phase, in seconds from now (`unix_seconds`).

    With `first_in_seconds` it is probed then too, and then at its phase, at least half an interval later.
    """
    earliest = 0.0 if first_in_seconds is None else first_in_seconds + interval_seconds / 2
    phase_seconds = phase_ratio(key) * interval_seconds
    wait_seconds: float = (phase_seconds - unix_seconds - earliest) % interval_seconds
    return earliest + wait_seconds
