"""When models are probed, in simulated time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from support.simulated import SimulatedLoop, run_simulated

from exporter.errors import SkipReason
from exporter.plan import ModelKey
from exporter.probing.schedule import MonotonicIntervalTrigger, Schedule
from exporter.probing.slots import Slot
from exporter.probing.turns import ProbeTurns

A, B, C = ModelKey("one", "a"), ModelKey("one", "b"), ModelKey("two", "c")
MINUTE, HOUR, DAY = 60, 3600, 86400


@dataclass
class Log:
    """Which model was probed when, in seconds since the start, and what was skipped."""

    loop: SimulatedLoop
    started_at: float = field(init=False)
    runs: list[tuple[float, ModelKey]] = field(default_factory=list)
    running: Counter[str] = field(default_factory=Counter)
    maximum_at_once: int = 0
    skips: Counter[tuple[ModelKey, SkipReason]] = field(default_factory=Counter)
    cancelled: list[ModelKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started_at = self.loop.time()

    def skipped(self, key: ModelKey, reason: SkipReason, count: int) -> None:
        """Count skipped due times."""
        self.skips[key, reason] += count

    def prober(self, seconds: float | Callable[[float], float]) -> Callable[[ModelKey, Slot], Awaitable[None]]:
        """Return a probe that takes `seconds`, which may depend on when it starts."""

        async def probe(key: ModelKey, slot: Slot) -> None:
            slot.count_chunks = lambda: int(self.loop.time() * 10)
            assert not self.running[key.target], "two probes of one target at once"
            self.running[key.target] += 1
            self.maximum_at_once = max(self.maximum_at_once, sum(self.running.values()))
            now = self.loop.time() - self.started_at
            self.runs.append((now, key))
            try:
                await asyncio.sleep(seconds(now) if callable(seconds) else seconds)
            except asyncio.CancelledError:
                self.cancelled.append(key)
                raise
            finally:
                self.running[key.target] -= 1

        return probe

    def times(self, key: ModelKey) -> list[float]:
        """Return when a model was probed."""
        return [when for when, probed in self.runs if probed == key]


def simulate(
    models: Mapping[ModelKey, tuple[float, float]],
    seconds: float,
    probe_seconds: float | Callable[[float], float] = 2,
    limit: int = 4,
    meanwhile: Callable[[SimulatedLoop, Schedule], Awaitable[None]] | None = None,
) -> Log:
    """Schedule models, each with its interval and first delay, until a second before `seconds`."""

    async def work(loop: SimulatedLoop) -> Log:
        log = Log(loop)
        schedule = Schedule(ProbeTurns(log.prober(probe_seconds), limit), log.skipped)
        schedule.start()
        for key, (interval, first) in models.items():
            schedule.add(key, interval, first)
        other = asyncio.ensure_future(meanwhile(loop, schedule)) if meanwhile else None
        await asyncio.sleep(seconds - 1)
        if other:
            await other
        await schedule.stop()
        assert not +log.running
        return log

    result: Log = run_simulated(work)
    return result


def test_a_timer_that_fires_early_takes_its_due_time() -> None:
    """Otherwise the model would be due again at once, or its due time would be missed."""
    now = 0.0
    trigger = MonotonicIntervalTrigger(60, 60, lambda: now)
    moment = datetime(2026, 1, 1, tzinfo=UTC)

    assert trigger.take() is None
    now = 59.6
    assert trigger.take() == 0
    assert trigger.take() is None
    assert trigger.get_next_fire_time(moment, moment) == moment + timedelta(seconds=60.4)
    now = 240.1
    assert trigger.get_next_fire_time(None, moment) == moment
    assert trigger.take() == 2


def test_each_model_is_probed_at_its_due_times() -> None:
    """The first probe is due after its delay, each next one an interval later, without drift over a day."""
    log = simulate({A: (MINUTE, 0), C: (15 * MINUTE, 5)}, DAY)

    assert log.times(A) == pytest.approx([index * MINUTE for index in range(DAY // MINUTE)], abs=1)
    assert log.times(C) == pytest.approx([5 + index * 15 * MINUTE for index in range(DAY // (15 * MINUTE))], abs=1)
    assert not log.skips


def test_a_first_probe_comes_in_addition_to_the_due_times() -> None:
    """It does not move them."""

    async def add(_: SimulatedLoop, schedule: Schedule) -> None:
        schedule.add(A, MINUTE, 45, first_in_seconds=3)
        await asyncio.sleep(0)

    log = simulate({}, 4 * MINUTE, meanwhile=add)

    assert log.times(A) == pytest.approx([3, 45, 105, 165, 225], abs=1)
    assert not log.skips


def test_new_due_times_do_not_end_the_running_probe() -> None:
    """They apply from the next probe on."""

    async def change(_: SimulatedLoop, schedule: Schedule) -> None:
        await asyncio.sleep(MINUTE + 1)
        schedule.add(A, 2 * MINUTE, 30)

    log = simulate({A: (MINUTE, 0)}, 6 * MINUTE, probe_seconds=5, meanwhile=change)

    assert log.times(A) == pytest.approx([0, 60, 91, 211, 331], abs=1)
    assert log.cancelled == []


def test_hung_servers_do_not_take_the_turns_of_healthy_ones() -> None:
    """With four turns, 8 healthy targets keep their rate next to 24 whose probes wait for five minutes."""
    healthy = {ModelKey(f"healthy{index}", "m"): (MINUTE, 20.0 + index) for index in range(8)}
    hung = {ModelKey(f"hung{index}", "m"): (MINUTE, index / 4) for index in range(24)}
    runs: Counter[ModelKey] = Counter()
    skips: Counter[tuple[ModelKey, SkipReason]] = Counter()

    async def work(loop: SimulatedLoop) -> None:
        async def probe(key: ModelKey, slot: Slot) -> None:
            runs[key] += 1
            if key in healthy:
                slot.count_chunks = lambda: int(loop.time() * 10)
            await asyncio.sleep(5 if key in healthy else 5 * MINUTE)

        schedule = Schedule(ProbeTurns(probe, 4), lambda key, reason, count: skips.update({(key, reason): count}))
        schedule.start()
        for key, (interval, due_in) in {**healthy, **hung}.items():
            schedule.add(key, interval, due_in)
        await asyncio.sleep(HOUR - 1)
        await schedule.stop()

    run_simulated(work)

    assert {runs[key] for key in healthy} == {60}
    assert {key for key, _ in skips} == set(hung)


def test_models_of_one_target_that_are_due_at_once_take_turns() -> None:
    """Neither is skipped (the probe itself asserts that they do not run at once)."""
    log = simulate({A: (MINUTE, 0), B: (MINUTE, 0)}, HOUR, probe_seconds=10)

    assert len(log.times(A)) == len(log.times(B)) == 60
    assert not log.skips


def test_no_more_targets_than_allowed_are_probed_at_once() -> None:
    """Of ten targets due at once with a limit of three, never more than three run, and all get their turn."""
    models = {ModelKey(f"t{index}", "m"): (MINUTE, 0.0) for index in range(10)}

    log = simulate(models, 10 * MINUTE, probe_seconds=5, limit=3)

    assert log.maximum_at_once == 3
    assert {len(log.times(key)) for key in models} == {10}


def test_a_probe_that_outlasts_its_interval_counts_as_overlap() -> None:
    """Due times while it runs are skipped and counted, and the model is never probed twice at once."""
    log = simulate({A: (MINUTE, 0)}, HOUR, probe_seconds=150)

    assert len(log.times(A)) == 20
    assert log.skips == {(A, SkipReason.OVERLAP): 40}


def test_a_model_that_waits_for_its_turn_counts_as_late() -> None:
    """If each probe is shorter than its interval, a model that runs every second time is late, not overlapping."""
    models = {ModelKey(f"t{index}", "m"): (MINUTE, 0.0) for index in range(4)}

    log = simulate(models, HOUR, probe_seconds=29, limit=1)

    for key in models:
        late, waiting_at_the_end = log.skips[key, SkipReason.LATE], {0, 1}
        assert late > 20
        assert 60 - len(log.times(key)) - late in waiting_at_the_end


def test_a_model_that_waits_for_another_of_its_target_counts_as_late() -> None:
    """The other one, which runs, counts as overlap."""
    log = simulate({A: (MINUTE, 0), B: (MINUTE, 1)}, 10 * MINUTE, probe_seconds=10 * MINUTE)

    assert log.skips == {(A, SkipReason.OVERLAP): 9, (B, SkipReason.LATE): 9}


def test_due_times_that_pass_while_the_loop_is_blocked_count_as_late() -> None:
    """After more than three intervals there is one probe, and the due times before it are counted."""

    async def block(loop: SimulatedLoop, _: Schedule) -> None:
        await asyncio.sleep(10 * MINUTE + 30)
        loop._now += 3.4 * MINUTE
        loop.step_wall_clock(3.4 * MINUTE)

    log = simulate({A: (MINUTE, 0)}, 30 * MINUTE, meanwhile=block)

    assert log.skips == {(A, SkipReason.LATE): 2}
    assert len(log.times(A)) == 30 - 2


@pytest.mark.parametrize("step", [-HOUR, HOUR, DAY, -DAY, 0.7])
def test_a_stepped_wall_clock_changes_no_due_time(step: float) -> None:
    """Whether it is set back or forward, each model is probed once an interval."""

    async def turn(loop: SimulatedLoop, _: Schedule) -> None:
        await asyncio.sleep(10 * MINUTE + 30)
        loop.step_wall_clock(step)

    log = simulate({A: (MINUTE, 0), C: (15 * MINUTE, 5)}, HOUR, meanwhile=turn)

    assert log.times(A) == pytest.approx([index * MINUTE for index in range(60)], abs=6)
    assert log.times(C) == pytest.approx([5, 905, 1805, 2705], abs=6)
    assert not log.skips


def test_a_removed_model_is_cancelled_and_never_probed_again() -> None:
    """Its running probe has ended when the removal returns; other models are not affected."""

    async def remove(_: SimulatedLoop, schedule: Schedule) -> None:
        await asyncio.sleep(5 * MINUTE + 1)
        await schedule.remove([A])

    log = simulate({A: (MINUTE, 0), C: (MINUTE, 0)}, HOUR, probe_seconds=5, meanwhile=remove)

    assert log.cancelled == [A]
    assert len(log.times(A)) == 6
    assert len(log.times(C)) == 60


def test_a_model_removed_after_its_job_was_submitted_is_not_probed() -> None:
    """APScheduler submits a job a step of the loop before it runs."""

    async def remove(loop: SimulatedLoop, schedule: Schedule) -> None:
        await asyncio.sleep(5 * MINUTE - 0.1)
        loop._now += 0.2
        loop.step_wall_clock(0.2)
        schedule._scheduler._process_jobs()
        await schedule.remove([A])

    log = simulate({A: (MINUTE, 0)}, HOUR, meanwhile=remove)

    assert len(log.times(A)) == 5


def test_a_model_can_be_added_again_after_its_removal() -> None:
    """It starts with its own first delay, like a new model."""

    async def again(_: SimulatedLoop, schedule: Schedule) -> None:
        await asyncio.sleep(90)
        await schedule.remove([A])
        schedule.add(A, MINUTE, 10)

    log = simulate({A: (MINUTE, 0)}, 4 * MINUTE, meanwhile=again)

    assert log.times(A) == pytest.approx([0, 60, 100, 160, 220], abs=1)


def test_stopping_cancels_what_runs_and_what_waits() -> None:
    """A running probe is cancelled. One that waits has not run, so it has no result."""
    log = simulate({A: (HOUR, 0), B: (HOUR, 0)}, 10, probe_seconds=100)

    assert log.cancelled == [A]
    assert log.times(B) == []


def test_an_unhandled_error_does_not_end_the_schedule(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its traceback, and the next due time starts a probe."""

    async def work(_: SimulatedLoop) -> int:
        runs = 0

        async def probe(_: ModelKey, __: Slot) -> None:
            nonlocal runs
            runs += 1
            raise RuntimeError("odd")

        schedule = Schedule(ProbeTurns(probe, 1), lambda *_: None)
        schedule.start()
        schedule.add(A, MINUTE, 0)
        await asyncio.sleep(5 * MINUTE - 1)
        await schedule.stop()
        return runs

    assert run_simulated(work) == 5
    assert "odd" in caplog.text
