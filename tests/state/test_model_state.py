"""What each event makes of one model's state."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.readings import FULL, PLAN, TRUNCATED, WORKLOAD, failure

from exporter.errors import Reason, SkipReason
from exporter.plan import ModelKey
from exporter.reading import Reading
from exporter.state.model_state import ModelState, status_at

NEW = ModelState(key=ModelKey("gpu-a", "llama3.1"), plan=PLAN)
TAKEN_AT = 5_000.0
AGE_LIMIT = 2 * PLAN.interval_seconds + PLAN.timeout_seconds
GOOD = NEW.with_success(FULL, 6.5, TAKEN_AT)


def test_a_new_model_has_counters_for_every_reason_and_no_results() -> None:
    """Counters exist from the start, so that the first failure is an increase."""
    assert NEW.failures == dict.fromkeys(Reason, 0)
    assert NEW.skipped == dict.fromkeys(SkipReason, 0)
    assert NEW.runs == 0
    assert (NEW.success, NEW.last_run, NEW.last_success, NEW.reading_at(TAKEN_AT)) == (None,) * 4


def test_a_reading_adds_to_the_sums_and_is_current() -> None:
    """Sums take the server's own counts and the GPU's energy."""
    assert (GOOD.successes, GOOD.runs, GOOD.success) == (1, 1, True)
    assert (GOOD.generated_tokens, GOOD.decode_seconds, GOOD.gpu_consumed_joules) == (256, 2.5, 800.0)
    assert GOOD.last_run == GOOD.last_success == FULL.finished_at
    assert GOOD.durations.counts[-1] == 1
    assert GOOD.reading_at(TAKEN_AT) is FULL


@pytest.mark.parametrize(
    "reading",
    [
        replace(TRUNCATED, gpu=FULL.gpu),
        replace(FULL, figures=replace(FULL.figures, stages=None), gpu=replace(FULL.gpu, state=None)),
        replace(FULL, figures=replace(FULL.figures, output_tokens=None), gpu=replace(FULL.gpu, state=None)),
    ],
    ids=["truncated", "without stages", "without tokens"],
)
def test_tokens_and_seconds_are_added_together_or_not_at_all(reading: Reading) -> None:
    """The quotient of the two sums stays a rate. A truncated reading is a success that adds nothing."""
    state = NEW.with_success(reading, 120.0, TAKEN_AT)

    assert state.successes == 1
    assert (state.generated_tokens, state.decode_seconds, state.gpu_consumed_joules) == (0, 0.0, None)


def test_energy_is_not_summed_until_a_reading_had_some() -> None:
    """Where no energy can be read the sum is unknown, not 0; a reading without energy adds nothing to a known sum."""
    without = replace(FULL, gpu=replace(FULL.gpu, state=None))

    assert NEW.gpu_consumed_joules is None
    assert NEW.with_success(without, 6.5, TAKEN_AT).gpu_consumed_joules is None
    assert NEW.with_success(replace(TRUNCATED, gpu=FULL.gpu), 6.5, TAKEN_AT).gpu_consumed_joules is None
    assert GOOD.with_success(without, 6.5, TAKEN_AT).gpu_consumed_joules == 800.0
    assert GOOD.with_success(FULL, 6.5, TAKEN_AT).gpu_consumed_joules == 1600.0


def test_a_failure_withdraws_the_reading_until_the_next_success() -> None:
    """The last reading is kept, for what it says of model and GPU, but it is not current."""
    failed = GOOD.with_failure(failure(Reason.CONNECT), 0.25, now=FULL.finished_at + 900)

    assert failed.reading_at(TAKEN_AT) is None
    assert failed.last_reading is FULL
    assert failed.failures[Reason.CONNECT] == 1
    assert failed.failure == failure(Reason.CONNECT)
    assert (failed.success, failed.last_run, failed.last_success) == (False, FULL.finished_at + 900, FULL.finished_at)

    again = failed.with_success(FULL, 6.5, TAKEN_AT + 900)
    assert again.reading_at(TAKEN_AT + 900) is FULL
    assert (again.success, again.failure, again.runs) == (True, None, 3)


def test_age_withdraws_the_reading() -> None:
    """A reading is current until 2 x interval + timeout after it was taken, and not longer."""
    assert GOOD.reading_at(TAKEN_AT + AGE_LIMIT) is FULL
    assert GOOD.reading_at(TAKEN_AT + AGE_LIMIT + 0.001) is None


@pytest.mark.parametrize("reason", SkipReason)
def test_a_skipped_probe_keeps_reading_and_result(reason: SkipReason) -> None:
    """Only a probe that looked at the server sets the time of the last run and the reason shown."""
    now = FULL.finished_at + 900
    state = GOOD.with_skipped(reason, 3, now)

    looked = reason in {SkipReason.UNLOADED, SkipReason.OCCUPIED}
    assert state.skipped[reason] == 3
    assert (state.runs, state.success) == (1, True)
    assert state.reading_at(TAKEN_AT + AGE_LIMIT) is FULL
    assert state.reading_at(TAKEN_AT + AGE_LIMIT + 1) is None
    assert state.last_run == (now if looked else FULL.finished_at)
    assert state.skip == (reason if looked else None)
    assert state.with_success(FULL, 1.0, TAKEN_AT).skip is None
    assert state.with_failure(failure(Reason.HTTP), 1.0, now).skip is None


def test_a_cancelled_probe_counts_as_a_run_and_changes_nothing_else() -> None:
    """It has no result and no duration."""
    assert GOOD.with_cancelled() == replace(GOOD, cancelled=1)
    assert GOOD.with_cancelled().runs == 2


def test_a_new_plan_keeps_counters_and_reading() -> None:
    """The reading's age limit follows the new interval."""
    state = GOOD.with_plan(replace(PLAN, interval_seconds=60.0))

    assert state.runs == 1
    assert state.reading_at(TAKEN_AT + 2 * 60 + PLAN.timeout_seconds) is FULL
    assert state.reading_at(TAKEN_AT + 2 * 60 + PLAN.timeout_seconds + 1) is None


def test_another_workload_withdraws_the_reading() -> None:
    """Rates are comparable within one workload only, so a reading never appears under another one's hash."""
    state = GOOD.with_plan(replace(PLAN, workload=replace(WORKLOAD, num_predict=64)))

    assert state.reading_at(TAKEN_AT) is None
    assert state.last_reading is None
    assert state.successes == 1


def test_status_shows_the_age_of_the_current_reading() -> None:
    """A withdrawn reading has no age, but its GPU is still known."""
    current = status_at(GOOD, TAKEN_AT + 60)
    withdrawn = status_at(GOOD.with_failure(failure(Reason.HTTP), 1.0, 0.0), TAKEN_AT + 60)

    assert (current.reading, current.age_seconds, current.gpu) == (FULL, 60.0, FULL.gpu.label)
    assert (withdrawn.reading, withdrawn.age_seconds, withdrawn.gpu) == (None, None, FULL.gpu.label)
    assert status_at(NEW, TAKEN_AT).gpu is None
