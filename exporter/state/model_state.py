"""The book kept on each pair: frozen records, and what each event makes of them.

Pure arithmetic. That runs = successes + failures + cancelled holds by construction: runs is never stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from exporter.errors import Reason
from exporter.plan import ModelKey, ModelPlan
from exporter.reading import Reading, SkipReason

BUCKETS_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


@dataclass(frozen=True, slots=True)
class Durations:
    """A classic histogram of run durations."""

    counts: tuple[int, ...] = (0,) * (len(BUCKETS_SECONDS) + 1)
    """Cumulative, one per bucket; the last is the number of all."""
    sum_seconds: float = 0.0

    def with_(self, seconds: float) -> Durations:
        """Return the histogram with one more observation. Raises ValueError unless it is finite and from 0 up."""
        if not 0 <= seconds < math.inf:
            raise ValueError(f"a run cannot have taken {seconds!r} seconds; nothing was updated")
        bounds = (*BUCKETS_SECONDS, math.inf)
        counts = tuple(count + (seconds <= bound) for count, bound in zip(self.counts, bounds, strict=True))
        return Durations(counts, self.sum_seconds + seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """All that is told of one pair."""

    pair: ModelKey
    plan: ModelPlan
    successes: int = 0
    failures: Mapping[Reason, int] = field(default_factory=lambda: dict.fromkeys(Reason, 0))
    cancelled: int = 0
    skipped: Mapping[SkipReason, int] = field(default_factory=lambda: dict.fromkeys(SkipReason, 0))
    generated_tokens: int = 0
    decode_seconds: float = 0.0
    gpu_consumed_joules: float = 0.0
    durations: Durations = Durations()
    success: bool | None = None
    """The newest verdict; None before the first."""
    failure: Reason | None = None
    """Why the newest verdict was a failure."""
    skip: SkipReason | None = None
    """Why nothing was measured since the newest verdict."""
    last_run: float | None = None
    last_success: float | None = None
    reading: Reading | None = None
    """The newest good one, whether it is still shown or not."""
    read_at: float = 0.0
    """When it came, by the monotonic clock."""

    @property
    def runs(self) -> int:
        """Runs that began and ended."""
        return self.successes + sum(self.failures.values()) + self.cancelled

    def shown(self, monotonic: float) -> Reading | None:
        """Return the reading, unless the newest probe failed or it is older than 2 x interval + timeout."""
        age_limit = 2 * self.plan.interval_seconds + self.plan.timeout_seconds
        if not self.success or monotonic - self.read_at > age_limit:
            return None
        return self.reading

    def with_plan(self, plan: ModelPlan) -> ModelState:
        """Return the record under a new plan. Another workload withdraws the reading: rates compare within one only."""
        same = plan.workload == self.plan.workload
        return replace(self, plan=plan, reading=self.reading if same else None)

    def with_success(self, reading: Reading, run_seconds: float, monotonic: float) -> ModelState:
        """Return the record after a good probe. Truncated ones count as successes, but not in the sums."""
        tokens, seconds, joules = 0, 0.0, 0.0
        if not reading.truncated:
            if reading.output_tokens is not None and reading.stages is not None:
                tokens, seconds = reading.output_tokens, reading.stages.decode_seconds
            if reading.gpu_state is not None:
                joules = reading.gpu_state.energy_joules or 0.0
        return replace(
            self,
            successes=self.successes + 1,
            generated_tokens=self.generated_tokens + tokens,
            decode_seconds=self.decode_seconds + seconds,
            gpu_consumed_joules=self.gpu_consumed_joules + joules,
            durations=self.durations.with_(run_seconds),
            success=True,
            failure=None,
            skip=None,
            last_run=reading.finished_at,
            last_success=reading.finished_at,
            reading=reading,
            read_at=monotonic,
        )

    def with_failure(self, reason: Reason, run_seconds: float, now: float) -> ModelState:
        """Return the record after a probe that measured nothing."""
        return replace(
            self,
            failures={**self.failures, reason: self.failures[reason] + 1},
            durations=self.durations.with_(run_seconds),
            success=False,
            failure=reason,
            skip=None,
            last_run=now,
        )

    def with_cancelled(self) -> ModelState:
        """Return the record after a run that shutdown or reload ended: no verdict, so nothing else changes."""
        return replace(self, cancelled=self.cancelled + 1)

    def with_skipped(self, reason: SkipReason, count: int, now: float) -> ModelState:
        """Return the record after due runs that measured nothing.

        `unloaded` and `occupied` are runs that looked and left, so they set the time of the last run; `overlap` and
        `late` are runs that never were.
        """
        skipped = {**self.skipped, reason: self.skipped[reason] + count}
        if reason in {SkipReason.UNLOADED, SkipReason.OCCUPIED}:
            return replace(self, skipped=skipped, skip=reason, last_run=now)
        return replace(self, skipped=skipped)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """One pair as people are shown it."""

    pair: ModelKey
    gpu: str | None
    """Of the newest good reading, even a withdrawn one; None before it."""
    reading: Reading | None
    """The newest good one; None before it, and when it is withdrawn."""
    age_seconds: float | None
    """Of the reading."""
    success: bool | None
    """The newest verdict; None before the first."""
    failure: Reason | None
    """Why the newest probe failed."""
    skip: SkipReason | None
    """Why nothing was measured since the newest verdict."""
    last_run: float | None
    """Unix seconds."""
    last_success: float | None
    """Unix seconds."""
    interval_seconds: float
    expected_decode_tokens_per_second: float | None


def status_of(record: ModelState, monotonic: float) -> ModelStatus:
    """Return a record's row at this time of the monotonic clock."""
    reading = record.shown(monotonic)
    return ModelStatus(
        pair=record.pair,
        gpu=record.reading.gpu if record.reading else None,
        reading=reading,
        age_seconds=monotonic - record.read_at if reading else None,
        success=record.success,
        failure=record.failure,
        skip=record.skip,
        last_run=record.last_run,
        last_success=record.last_success,
        interval_seconds=record.plan.interval_seconds,
        expected_decode_tokens_per_second=record.plan.expected_decode_tokens_per_second,
    )
