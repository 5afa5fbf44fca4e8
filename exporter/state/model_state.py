"""One model's counters and last results: a frozen value, and its state after each event.

Pure arithmetic. `runs = successes + failures + cancelled` holds by construction: `runs` is never stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from exporter.errors import Failure, Reason, SkipReason
from exporter.plan import ModelKey, ModelPlan
from exporter.reading import Reading
from exporter.state.histogram import DurationHistogram


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """Counters and last results of one model on one target."""

    key: ModelKey
    plan: ModelPlan
    successes: int = 0
    failures: Mapping[Reason, int] = field(default_factory=lambda: dict.fromkeys(Reason, 0))
    cancelled: int = 0
    skipped: Mapping[SkipReason, int] = field(default_factory=lambda: dict.fromkeys(SkipReason, 0))
    generated_tokens: int = 0
    decode_seconds: float = 0.0
    gpu_consumed_joules: float | None = None
    """None until a reading had an energy."""
    durations: DurationHistogram = field(default_factory=DurationHistogram)
    success: bool | None = None
    """Whether the last finished probe succeeded; None before the first."""
    failure: Failure | None = None
    """Why the last finished probe failed; None if it succeeded."""
    skip: SkipReason | None = None
    """Why the model was not probed since the last finished probe."""
    last_run: float | None = None
    """Unix seconds of the last finished or skipped probe."""
    last_success: float | None = None
    """Unix seconds."""
    last_reading: Reading | None = None
    """The last reading of the current workload, exposed or not."""
    read_at: float = 0.0
    """When it was taken, in seconds of the monotonic clock."""

    @property
    def runs(self) -> int:
        """Number of probes that were started and have ended."""
        return self.successes + sum(self.failures.values()) + self.cancelled

    def reading_at(self, monotonic: float) -> Reading | None:
        """Return the last reading, or None if the last probe failed or it is older than 2 x interval + timeout."""
        age_limit_seconds = 2 * self.plan.interval_seconds + self.plan.timeout_seconds
        if not self.success or monotonic - self.read_at > age_limit_seconds:
            return None
        return self.last_reading

    def with_plan(self, plan: ModelPlan) -> ModelState:
        """Return the state under a new plan. Another workload withdraws the reading."""
        same = plan.workload == self.plan.workload
        return replace(self, plan=plan, last_reading=self.last_reading if same else None)

    def with_success(self, reading: Reading, run_seconds: float, monotonic: float) -> ModelState:
        """Return the state after a successful probe. Truncated readings are successes, but do not add to the sums."""
        tokens, seconds, joules = 0, 0.0, self.gpu_consumed_joules
        figures = reading.figures
        if not figures.truncated:
            if figures.output_tokens is not None and figures.stages is not None:
                tokens, seconds = figures.output_tokens, figures.stages.decode_seconds
            if reading.gpu.state is not None and reading.gpu.state.energy_joules is not None:
                joules = (joules or 0.0) + reading.gpu.state.energy_joules
        return replace(
            self,
            successes=self.successes + 1,
            generated_tokens=self.generated_tokens + tokens,
            decode_seconds=self.decode_seconds + seconds,
            gpu_consumed_joules=joules,
            durations=self.durations.observe(run_seconds),
            success=True,
            failure=None,
            skip=None,
            last_run=reading.finished_at,
            last_success=reading.finished_at,
            last_reading=reading,
            read_at=monotonic,
        )

    def with_failure(self, failure: Failure, run_seconds: float, now: float) -> ModelState:
        """Return the state after a failed probe, which withdraws the reading."""
        return replace(
            self,
            failures={**self.failures, failure.reason: self.failures[failure.reason] + 1},
            durations=self.durations.observe(run_seconds),
            success=False,
            failure=failure,
            skip=None,
            last_run=now,
        )

    def with_cancelled(self) -> ModelState:
        """Return the state after a probe that shutdown or reload cancelled. Nothing else changes."""
        return replace(self, cancelled=self.cancelled + 1)

    def with_skipped(self, reason: SkipReason, count: int, now: float) -> ModelState:
        """Return the state after `count` due probes that were skipped.

        A probe skipped as `unloaded` or `occupied` did look at the server, so it sets the time of the last run;
        `overlap` and `late` ones never started.
        """
        skipped = {**self.skipped, reason: self.skipped[reason] + count}
        if reason in {SkipReason.UNLOADED, SkipReason.OCCUPIED}:
            return replace(self, skipped=skipped, skip=reason, last_run=now)
        return replace(self, skipped=skipped)


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model's state at one moment, as the status page and the terminal show it."""

    state: ModelState
    reading: Reading | None
    """The exposed reading; None before the first, and once it is withdrawn."""
    age_seconds: float | None
    """Of the exposed reading."""

    @property
    def gpu(self) -> str | None:
        """The `gpu` label of the last reading, even of a withdrawn one; None before the first."""
        return self.state.last_reading.gpu.label if self.state.last_reading else None


def status_at(state: ModelState, monotonic: float) -> ModelStatus:
    """Return a model's status at this time of the monotonic clock."""
    reading = state.reading_at(monotonic)
    return ModelStatus(state, reading, monotonic - state.read_at if reading else None)
